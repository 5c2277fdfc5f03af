#!/usr/bin/env bash
# Install what tests need and run all of them: style, types, architecture, then every ring from unit to system.
set -euo pipefail
. "$(dirname "$0")/packaging/install.sh"
cd "$here"

must_be_root
have_packages runc conmon nftables iproute2 mosquitto busybox-static python3-venv openssl ca-certificates \
    docker-registry conntrack chromium systemd iptables
have_python orchestrator,cli,test

bin=$venv/bin
say "style …"
"$bin/ruff" check --quiet .
"$bin/ruff" format --quiet --check .
say "types …"
"$bin/mypy"
say "architecture …"
"$bin/lint-imports" --no-cache >/dev/null || "$bin/lint-imports" --no-cache
say "tests …"
[ $# -eq 0 ] || exec "$bin/pytest" --durations=10 "$@"
# The rings that touch nothing of the machine run beside those that do, and give way to them.
quiet=(tests/test_tidy.py tests/unit tests/property tests/simulation)
machine=(tests/contract tests/system tests/compatibility tests/browser)
told=$(mktemp)
trap 'rm -f "$told"' EXIT
nice -n 19 "$bin/pytest" --durations=5 "${quiet[@]}" >"$told" 2>&1 &
failed=0
"$bin/pytest" --durations=10 "${machine[@]}" || failed=$?
wait $! || failed=$?
cat "$told"
exit "$failed"
