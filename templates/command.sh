# shellcheck shell=sh
# Root types this in other users' folders. Nothing in such a folder may run, and only the variables named here get through.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
cd / || exit
isolated() {
    exec env --ignore-environment PATH="$PATH" HOME="$(getent passwd "$(id -u)" | cut -d: -f6)" LOGNAME="$(id -un)" \
        ${LANG:+"LANG=$LANG"} ${LC_ALL:+"LC_ALL=$LC_ALL"} ${TERM:+"TERM=$TERM"} ${NO_COLOR:+"NO_COLOR=$NO_COLOR"} \
        ${PGPREFECT_EVENTS_TABLE:+"PGPREFECT_EVENTS_TABLE=$PGPREFECT_EVENTS_TABLE"} \
        ${PGPREFECT_EVENTS_COLUMNS:+"PGPREFECT_EVENTS_COLUMNS=$PGPREFECT_EVENTS_COLUMNS"} "$@"
}
