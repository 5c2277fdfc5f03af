#!/bin/sh
# The example's server: every instance answers with its own name. Port 80, or the one in PORT.
# The shell stays as process 1 because the kernel withholds from that one every signal it does not ask for.
httpd -f -p "${PORT:-80}" -h /www &
trap 'kill $! 2>/dev/null; exit 0' TERM INT
echo "$(hostname) answers on port ${PORT:-80}"
wait $!
