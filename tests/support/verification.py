"""What verification finds in a site, and what PostgreSQL refuses there."""

from __future__ import annotations

import contextlib

import psycopg2
from pgprefect.core.problems import NOTICE
from pgprefect.schema.verify import verify

from tests.support.site import Site


def errors(site: Site) -> set[str]:
    """The codes of all errors that verification finds."""
    return {
        problem.code for problem in verify(site.server.login, site.declaration).problems if problem.severity == "error"
    }


def codes(site: Site, *, notices: bool = True) -> set[str]:
    """The codes of all problems that verification finds."""
    found = verify(site.server.login, site.declaration).problems
    return {problem.code for problem in found if notices or problem.severity != NOTICE}


def refusal(site: Site, role: str, statement: str) -> str | None:
    """Try a statement as a role, undo it, and return PostgreSQL's code for its refusal, if it refused."""
    connection = site.server.connect(site.database, role, site.declaration.passwords[role])
    connection.autocommit = False
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
    except psycopg2.Error as error:
        return error.pgcode
    finally:
        connection.close()
    return None


def everything(site: Site) -> list[tuple[object, ...]]:
    """All that a run could change: roles, settings, owners and rights, for a comparison."""
    cluster = """
        SELECT rolname, rolcanlogin::text, rolsuper::text, rolconnlimit::text, rolpassword FROM pg_authid
        UNION ALL SELECT datname, pg_get_userbyid(datdba), datacl::text, '', '' FROM pg_database ORDER BY 1, 2, 3
    """
    database = """
        SELECT nspname::text, pg_get_userbyid(nspowner)::text, nspacl::text FROM pg_namespace
        WHERE nspname !~ '^pg_temp|toast'
        UNION ALL SELECT relname, pg_get_userbyid(relowner), relacl::text FROM pg_class
        UNION ALL SELECT defaclobjtype::text, defaclrole::regrole::text, defaclacl::text FROM pg_default_acl
        UNION ALL SELECT setrole::regrole::text, setconfig::text, '' FROM pg_db_role_setting
        UNION ALL SELECT member::regrole::text, roleid::regrole::text, '' FROM pg_auth_members
        UNION ALL SELECT extname, '', '' FROM pg_extension ORDER BY 1, 2, 3
    """
    found: list[tuple[object, ...]] = list(site.server.sql("postgres", cluster))
    with contextlib.suppress(psycopg2.OperationalError):
        found += site.sql(database)
    return found
