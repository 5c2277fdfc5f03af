#!/bin/sh
# The example's client: asks SERVER every second (or every PERIOD seconds) and prints a line for each answer.
trap 'exit 0' TERM INT
: "${SERVER:?set SERVER to the URL to fetch, as in http://10.30.0.1/}"
while :; do
    # Not wget's own -T, at which Debian's busybox 1.35 crashes.
    if answer=$(timeout 3 wget -q -O - "$SERVER" 2>&1); then
        echo "$(date +%T) $answer"
    else
        echo "$(date +%T) no answer from $SERVER: $answer"
    fi
    sleep "${PERIOD:-1}" &
    wait $!
done
