#!/bin/sh
# Answers one request: a page for browsers, one line for everything else.
name=$(hostname)
client=${REMOTE_ADDR:-nobody}
client=${client#'[::ffff:'}
client=${client%']'}
line="$name (instance ${OAKESTRA_INSTANCE:-?} of ${OAKESTRA_SERVICE:-no service}) greets $client"
case "$HTTP_ACCEPT" in
*text/html*) ;;
*)
    printf 'Content-Type: text/plain\r\nCache-Control: no-store\r\n\r\n%s\n' "$line"
    exit
    ;;
esac
printf 'Content-Type: text/html; charset=utf-8\r\nCache-Control: no-store\r\n\r\n'
cat <<PAGE
<!doctype html>
<html lang="en">
<meta name="viewport" content="width=device-width">
<title>$name</title>
<style>
  body { font: 1.1rem/1.6 system-ui, sans-serif; max-width: 32rem; margin: 12vh auto; padding: 0 1rem }
  dt { color: #666 } dd { margin: 0 0 .6rem; font-weight: 600 }
</style>
<h1>$name</h1>
<p>This page comes from one instance of a service that Oakestra runs. Load it again: another may answer.</p>
<dl>
  <dt>Service</dt><dd>${OAKESTRA_SERVICE:-unknown}</dd>
  <dt>Instance</dt><dd>${OAKESTRA_INSTANCE:-unknown}</dd>
  <dt>Its address</dt><dd>${OAKESTRA_INSTANCE_IP:-unknown}</dd>
  <dt>Your address</dt><dd>$client</dd>
</dl>
</html>
PAGE
