# Sourced by getstarted.sh and test.sh: what both need to be on the machine. Does nothing twice.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$here/.venv
python=/usr/bin/python3
unset PYTHONDONTWRITEBYTECODE # a command that compiles everything anew starts four times slower

say() { printf '%s\n' "$*"; }
fail() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# have_packages NAME…: install those Debian packages that are missing.
have_packages() {
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    command -v apt-get >/dev/null || fail "this machine has no apt-get; install by hand: ${missing[*]}"
    say "installing ${missing[*]} …"
    local log
    log=$(mktemp)
    if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        "${missing[@]}"; } >"$log" 2>&1; then
        tail -n 15 "$log" >&2
        fail "apt-get could not install ${missing[*]}; the lines above say why"
    fi
    rm -f "$log"
    # The distribution starts a broker of its own for everybody who installs Mosquitto; ours needs none.
    if [ -d /run/systemd/system ] && [[ " ${missing[*]} " == *" mosquitto "* ]]; then
        systemctl disable --now mosquitto.service >/dev/null 2>&1 || true
    fi
}

# have_python EXTRAS: have the project in its own virtual environment, with these extras of pyproject.toml.
have_python() {
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "Python 3.11 or newer is needed; $python is $("$python" --version)"
    local mark=$venv/.installed wanted
    wanted="$1 $(sha256sum <"$here/pyproject.toml")"
    grep -qxF "$wanted" "$mark" 2>/dev/null && return
    say "installing Python packages into $venv …"
    [ -x "$venv/bin/pip" ] || "$python" -m venv "$venv"
    local log
    log=$(mktemp)
    if ! "$venv/bin/pip" install --quiet --disable-pip-version-check -e "$here[$1]" >"$log" 2>&1; then
        tail -n 15 "$log" >&2
        fail "pip could not install the packages; the lines above say why"
    fi
    rm -f "$log"
    printf '%s\n' "$wanted" >>"$mark"
}

must_be_root() {
    [ "$(id -u)" -eq 0 ] || fail "needs root rights, to run containers and their network: sudo $0"
}
