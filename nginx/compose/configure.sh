#!/bin/bash
# Publishes the configuration once the control plane is ready: when there is none yet, or always with EVENKEEL_CONFIG_OVERWRITE=true.
# Its refusal is printed with the path of every fault.
set -euo pipefail
api=${EVENKEEL_CONTROL_URL:?}/api/v1
call() { curl -sS --max-time 20 -H @<(printf 'authorization: Bearer %s\n' "$(<"${EVENKEEL_ADMIN_TOKEN_FILE:?}")") "$@"; }
until call -f -o /dev/null "$api/status" 2>/dev/null; do (( SECONDS < 120 )) || { echo "the control plane is not ready after 120 s" >&2; exit 1; }; sleep 1; done
if [[ ${EVENKEEL_CONFIG_OVERWRITE:-false} != true ]] && call "$api/status" | grep -qE '"revision": ?[1-9]'; then
  echo "there is a configuration already; it stays"
  exit 0
fi
code=$(call -X PUT "$api/config" -H 'content-type: application/yaml' --data-binary @"${1:?the file}" -o /tmp/answer -w '%{http_code}')
cat /tmp/answer; echo
[[ $code == 2?? ]]
