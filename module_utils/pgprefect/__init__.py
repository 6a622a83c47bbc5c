"""What is known about two schemas in one PostgreSQL database: the application's and Prefect's.

Plain functions over an open DB-API connection. The same package serves the Ansible modules on a host, Python programs
and the command ``python -m pgprefect``; so it imports neither ansible nor prefect, and only relatively from itself.
"""
