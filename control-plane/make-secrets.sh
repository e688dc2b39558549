#!/bin/bash
# Makes what is missing of a gateway's secrets in DIR (/secrets): the operator's token, the nodes' token, the token for their metrics,
# the database's password and the key that encrypts what is stored. What is there stays. The group may read the token for metrics.
set -euo pipefail
umask 077
cd "${1:-/secrets}"
for name in admin-token node-token metrics-token postgres-password; do
  [[ -s $name ]] || { head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=\n' >"$name.new" && mv "$name.new" "$name"; }
done
chmod 640 metrics-token
[[ -s secret.key ]] || { head -c 32 /dev/urandom >secret.key.new && mv secret.key.new secret.key; }
