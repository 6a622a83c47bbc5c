# shellcheck shell=bash
# Functions that the scripts share. Sourcing this file changes to the root of the repository.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
ROOT=$PWD
CACHE=$ROOT/.cache
mkdir -p "$CACHE"

export BOX_NAME=${BOX_NAME:-prefect-box} BOX_PORT=${BOX_PORT:-4200}
# Ansible starts a process for each task; without cached byte code each one compiles the plugins again.
unset PYTHONDONTWRITEBYTECODE
# Use the distribution's Python, and the system's certificates: a proxy that inspects TLS has its own.
export UV_PYTHON_DOWNLOADS=never UV_SYSTEM_CERTS=1

die() {
    printf '%s\n' "$@" >&2
    exit 1
}

# step TEXT COMMAND...: prints TEXT, runs the command with its output in a log, and prints the log's end if it fails.
step() {
    local text=$1 start=$EPOCHREALTIME log status=0
    shift
    log=$(mktemp "$CACHE/step.XXXXXX")
    printf '%s ... ' "$text"
    "$@" >"$log" 2>&1 || status=$?
    if ((status)); then
        printf 'failed after %s\n' "$(since "$start")"
        tail -n 40 "$log" >&2
    else
        since "$start"
    fi
    rm -f "$log"
    return "$status"
}

since() { # START: prints the time since START, a value of EPOCHREALTIME
    awk -v start="${1/,/.}" -v now="${EPOCHREALTIME/,/.}" 'BEGIN { printf "%.1f s\n", now - start }'
}

as_root() {
    if ((EUID == 0)); then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "This needs root: run it as root, or install sudo: $*"
    fi
}

# apt_install PACKAGE...: installs those that are missing; without apt-get it only names them.
apt_install() {
    local package missing=()
    for package in "$@"; do
        [[ $(dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    command -v apt-get >/dev/null || die "Please install these first (Debian's names): ${missing[*]}"
    step "Update Debian's package lists" as_root apt-get update
    step "Install ${missing[*]}" as_root env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "${missing[@]}"
}

# find_python: sets PYTHON to an interpreter that the controller's lock supports.
find_python() {
    for PYTHON in python3 python3.13 python3.12 python3.11; do
        PYTHON=$(command -v "$PYTHON") || continue
        "$PYTHON" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && return
    done
    apt_install python3
    PYTHON=/usr/bin/python3
    "$PYTHON" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null ||
        die "Ansible needs Python 3.11, 3.12 or 3.13, and none of them is on PATH."
}

# find_uv: sets UV; if no uv is installed, installs the locked one in .cache.
find_uv() {
    UV=$(command -v uv) && "$UV" --version >/dev/null 2>&1 && return
    UV=$CACHE/uv/bin/uv
    "$UV" --version >/dev/null 2>&1 && return
    find_python
    "$PYTHON" -c 'import ensurepip' 2>/dev/null || apt_install python3-venv
    step "Make a virtualenv for uv" "$PYTHON" -m venv --clear "$CACHE/uv"
    step "Install uv" "$CACHE/uv/bin/python" -m pip install --quiet --require-hashes --requirement requirements/uv.txt
}

# default_release: prints the release of Prefect that inventories get which name none.
default_release() {
    sed -n "s/^prefect_release: .*default('\([0-9.]*\)').*/\1/p" playbooks/group_vars/all/prefect.yml
}

# virtualenv FOLDER LOCK...: makes FOLDER hold exactly the packages of the locks. Fast if they have not changed.
virtualenv() {
    local folder=$ROOT/$1 locks
    shift
    locks=$(cat "$@" | sha256sum)
    # The scripts in a virtualenv contain its path, so one that was moved is recreated.
    if [[ $(cat "$folder/.address" 2>/dev/null) != "$folder" ]] || ! "$folder/bin/python" --version &>/dev/null; then
        rm -f "$folder"/.{address,locks}
    fi
    [[ $(cat "$folder/.locks" 2>/dev/null) != "$locks" ]] || return 0
    find_uv
    if [[ ! -e $folder/.address ]]; then
        find_python
        step "Make the virtualenv ${folder##*/}" "$UV" venv --clear --python "$PYTHON" "$folder"
        printf '%s\n' "$folder" >"$folder/.address"
    fi
    step "Install the packages of ${folder##*/}" "$UV" pip sync --require-hashes --python "$folder/bin/python" "$@"
    printf '%s\n' "$locks" >"$folder/.locks"
}
