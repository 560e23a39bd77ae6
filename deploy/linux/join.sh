#!/bin/sh
# Makes this Linux host a device of a cluster, as the user who runs it: checks, a virtual environment, `orchestrate join`.
set -eu

usage() {
    cat <<'TEXT'
join.sh [--venv DIR] [--python PYTHON] SOURCE HEAD[:PORT] [options of `orchestrate join`]
join.sh [--venv DIR] [--python PYTHON] --no-join SOURCE

SOURCE        a wheel (orchestrate_bench-*.whl) or a checkout of the project
HEAD          address of the head
--venv DIR    where the program goes; default ~/orchestrate
--python P    Python 3.11 to 3.14, the minor version of the head's; default: the newest that is found
--no-join     install only, as for the systemd units

The token: copy ~/.ray/auth_token from the head first, or add --token-file FILE.
TEXT
}

fail() {
    printf 'join.sh: %s\n' "$1" >&2
    exit "${2:-1}"
}

fits() {
    command -v "$1" >/dev/null 2>&1 &&
        "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null
}

find_python() {
    for found in python3.14 python3.13 python3.12 python3.11 python3; do
        if fits "$found"; then
            printf '%s\n' "$found"
            return
        fi
    done
    fail "no Python 3.11 to 3.14 on the PATH; give one: --python /usr/bin/python3.12"
}

# Exactly what llama.cpp will do: load the library.
check_libgomp() {
    "$1" -c 'import ctypes; ctypes.CDLL("libgomp.so.1")' 2>/dev/null || fail \
        "libgomp.so.1 is missing, which llama.cpp needs. Debian, Ubuntu: apt-get install libgomp1; Fedora: dnf install libgomp"
}

install_package() {
    if [ ! -x "$2/bin/python" ]; then
        "$1" -m venv "$2" || fail "$1 makes no virtual environment. Debian, Ubuntu: apt-get install python3-venv"
    fi
    fits "$2/bin/python" || fail "$2 has another Python than 3.11 to 3.14: remove it, or give another --venv"
    "$2/bin/python" -m pip install --quiet --upgrade "$3"
    case $3 in
        # A wheel of the same version, built anew, would be passed over.
        *.whl) "$2/bin/python" -m pip install --quiet --force-reinstall --no-deps "$3" ;;
    esac
    "$2/bin/orchestrate" --help >/dev/null
}

venv=$HOME/orchestrate
python=
join=yes
while [ $# -gt 0 ]; do
    case $1 in
        --venv | --python)
            [ $# -ge 2 ] || fail "$1 needs a value" 2
            if [ "$1" = --venv ]; then venv=$2; else python=$2; fi
            shift 2
            ;;
        --no-join)
            join=no
            shift
            ;;
        -h | --help)
            usage
            exit 0
            ;;
        -*) fail "unknown option $1 before SOURCE; allowed: --venv, --python, --no-join, --help" 2 ;;
        *) break ;;
    esac
done

[ "$(uname -s)" = Linux ] || fail "for Linux; for others see deploy/README.md"
[ $# -ge 1 ] || { usage >&2; exit 2; }
source=$1
shift
[ -f "$source" ] || [ -f "$source/pyproject.toml" ] || fail "$source: neither a wheel nor a checkout" 2
if [ "$join" = yes ]; then
    [ $# -ge 1 ] || fail "HEAD is missing: the address of the head, such as 192.168.1.10" 2
    head=$1
    shift
fi

if [ -z "$python" ]; then
    python=$(find_python)
else
    fits "$python" || fail "$python: not a Python 3.11 to 3.14" 2
fi
check_libgomp "$python"
install_package "$python" "$venv" "$source"
printf 'installed: %s/bin/orchestrate, with %s\n' "$venv" "$("$venv/bin/python" --version)"
[ "$join" = yes ] || exit 0
exec "$venv/bin/orchestrate" join "$head" "$@"
