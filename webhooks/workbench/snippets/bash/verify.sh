#!/usr/bin/env bash
# Verify a RemoteDevAI webhook with openssl: the body on standard input, the rest in variables
# WEBHOOK_SECRET (old and new while a secret is rotated), WEBHOOK_ID, WEBHOOK_TIMESTAMP and
# WEBHOOK_SIGNATURE. Exits 0 when it is valid.
set -euo pipefail

tolerance_seconds=300
body=$(mktemp)
trap 'rm -f "$body"' EXIT
cat > "$body"

[[ -n $WEBHOOK_ID && $WEBHOOK_TIMESTAMP =~ ^[0-9]{1,12}$ ]] || exit 1
age=$(( ${WEBHOOK_NOW:-$(date +%s)} - 10#$WEBHOOK_TIMESTAMP ))
(( age <= tolerance_seconds && age >= -tolerance_seconds )) || exit 1

digest() { openssl dgst -sha256 -mac HMAC -macopt "hexkey:$1" -binary; }

# Both sides are hashed again before they are compared, so that the time taken tells nothing.
blind=$(openssl rand -hex 32)
for secret in $WEBHOOK_SECRET; do
  key=$(printf %s "${secret#whsec_}" | base64 -d | od -An -v -tx1 | tr -d ' \n')
  expected="v1,$({ printf '%s.%s.' "$WEBHOOK_ID" "$WEBHOOK_TIMESTAMP"; cat "$body"; } \
    | digest "$key" | base64)"
  expected=$(printf %s "$expected" | digest "$blind" | base64)
  for given in $WEBHOOK_SIGNATURE; do
    [[ $(printf %s "$given" | digest "$blind" | base64) == "$expected" ]] && exit 0
  done
done
exit 1
