#!/usr/bin/env bash
# Start root, cluster and worker on this machine, deploy the example, and return when it answers. Safe to run twice.
set -euo pipefail
. "$(dirname "$0")/packaging/install.sh"

must_be_root
have_packages runc conmon nftables iproute2 mosquitto busybox-static python3-venv openssl ca-certificates
have_python orchestrator,cli
oak=$venv/bin/oak
if [ ! -e /usr/local/bin/oak ]; then ln -s "$oak" /usr/local/bin/oak; fi
typed=oak
[ "$(readlink -f /usr/local/bin/oak)" = "$(readlink -f "$oak")" ] || typed=$oak

say "starting root, cluster and worker …"
"$oak" up

images=$("$oak" worker image ls -o json)
if [[ $images != *oakestra/example:1* ]]; then
    say "building the example's image from busybox …"
    archive=$(mktemp --suffix=.tar)
    trap 'rm -f "$archive"' EXIT
    said=$("$venv/bin/python" -m oakestra.runtime.images.build --example "$archive" 2>&1) || fail "$said"
    "$oak" worker image load "$archive"
fi

if ! "$oak" app show example >/dev/null 2>&1; then
    say "creating the application from examples/web.json …"
    "$oak" app create "$here/examples/web.json"
fi
"$oak" service scale example.server 2 --wait
"$oak" service scale example.client 1 --wait

say "waiting for the client to fetch a page through the server's address 10.30.30.30 …"
for _ in $(seq 300); do
    line=$("$oak" service logs example.client 2>/dev/null | grep greets | tail -n 1) && [ -n "$line" ] && break
    sleep 0.1
done
[ -n "${line:-}" ] || fail "the client did not get a page within 30 s; see: $typed service logs example.client, $typed explain example.client"
say "  ✓ $line"

password=/var/lib/oakestra/default/root/admin.password
say "
It works. What now?

  API            http://127.0.0.1:10000/api/docs
  user           Admin
  password       $([ -f $password ] && cat $password || echo 'the one you chose')

  $typed service ls                         what runs, and where
  $typed service logs example.client -f     what the client sees
  $typed service scale example.server 5     more servers

  $typed down                               stops everything; --purge forgets everything
"
