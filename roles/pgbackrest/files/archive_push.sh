#!/bin/sh
# archive_push.sh STANZA PATH: archive_command of a database of several hosts.
#
# pg_rewind copies segments of former timelines to a member, and as the primary it archives them. Of the one in which a timeline ended each
# member has another rest, which nobody reads: the next timeline goes on in a segment of its own. pgBackRest refuses a second version, and
# all later WAL would wait for it. That one is left to the archive as it is; every other difference stays a failure.
stanza=$1 path=$2
pgbackrest --stanza="$stanza" archive-push "$path" && exit
status=$?
segment=${path##*/} folder=${path%/*}
different=45
[ "$status" -eq "$different" ] && [ "${#segment}" -eq 24 ] || exit "$status"

# The history of the newest timeline says where each former one ended: TIMELINE HIGH/LOW REASON
for history in "$folder"/????????.history; do :; done
[ -e "$history" ] || exit "$status"
timeline=$((0x${segment%????????????????}))
position=${segment#????????}
size=$(stat --format %s "$path")
behind=$(((0x${position%????????} << 32) + (0x${position#????????} + 1) * size))
while read -r former end _; do
    if [ "$former" = "$timeline" ] && [ "$behind" -gt $(((0x${end%/*} << 32) + 0x${end#*/})) ]; then
        echo "$segment: timeline $timeline ended in it or before, at $end; the archive keeps the version that it has" >&2
        exit
    fi
done < "$history"
exit "$status"
