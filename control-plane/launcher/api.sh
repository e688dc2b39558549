# The configuration file, and talking to the parts over HTTP.

# ---- the configuration -------------------------------------------------------------------------------------------

config_extension() { case $1 in *.json) REPLY=json ;; *) REPLY=yaml ;; esac; }

named_variables() { # FILE: the environment variables it refers to as env:NAME, on one line
  sed 's/^[[:space:]]*#.*//' -- "$1" | { grep -oE 'env:[A-Za-z_][A-Za-z0-9_]*' || true; } | cut -d: -f2 | sort -u | tr '\n' ' '
}

configured_listen() { # FILE: gateway.listen in REPLY; `listen` is the name of no other key, in YAML and in JSON
  REPLY=$(sed 's/^[[:space:]]*#.*//' -- "$1" \
    | sed -nE "s/^(.*[^A-Za-z0-9_])?listen[\"']?[[:space:]]*:[[:space:]]*[\"']?([^\"',}#[:space:]]+).*/\2/p" | head -n 1)
  [[ -n $REPLY ]] || REPLY=127.0.0.1:8080
}

edge_base_url() { # http://HOST:PORT in REPLY, reachable from this machine; https with gateway.tls
  local host=${EDGE_LISTEN%:*} scheme=http
  ! grep -qs '^ *ssl_certificate ' "$STATE/node/nginx.conf" || scheme=https
  case $host in ''|'0.0.0.0'|'*') host=127.0.0.1 ;; '[::]') host='[::1]' ;; esac
  REPLY=$scheme://$host:${EDGE_LISTEN##*:}
}

write_demo_config() {
  sed -e "s/@LISTEN@/$EDGE_LISTEN/" -e "s/@PORT_A@/$PROVIDER_A_PORT/" -e "s/@PORT_B@/$PROVIDER_B_PORT/" \
      -e "s/@PORT_C@/$PROVIDER_C_PORT/" -e "s/@PORT_LITE@/$PROVIDER_LITE_PORT/" "$STATE/release/nginx/demo.yaml" \
    | write_file 640 "$STATE/config.yaml"
}

validate_config() { # FILE: prints every fault with its path and ends the command, or stores it as $STATE/config.EXT
  local extension output code=0; config_extension "$1"; extension=$REPLY
  write_file 600 "$STATE/candidate.$extension" <"$1"
  step "checking $(basename -- "$1")"
  output=$( set_control_plane_env; clean_environment "${part_env[@]}" PATH=/usr/bin:/bin \
    && as_user timeout 60 "$DOTNET" "$STATE/release/control-plane/Evenkeel.ControlPlane.dll" validate "$STATE/candidate.$extension" 2>&1 ) || code=$?
  if (( code != 0 )); then
    as_user rm -f -- "$STATE/candidate.$extension"
    printf '\n'; step_open=false
    local faults; faults=$(grep -c . <<<"$output" || true)
    if (( code == 1 )); then
      printf 'evenkeel: %s has %s:\n' "$1" "$( (( faults == 1 )) && echo '1 fault' || echo "$faults faults")" >&2
    else
      printf 'evenkeel: %s could not be checked:\n' "$1" >&2
    fi
    printf '%s\n' "$output" | tail -n 200 | sed 's/^/  /' >&2
    exit 1
  fi
  as_user rm -f -- "$STATE"/config.{yaml,json}
  as_user mv -f -- "$STATE/candidate.$extension" "$STATE/config.$extension"
  step_done
}

# ---- talking to the parts ----------------------------------------------------------------------------------------

HTTP_STATUS='' HTTP_BODY=''

http() { # SECONDS URL [CURL OPTION…]: false unless 2xx
  local seconds=$1 url=$2 answer; shift 2
  HTTP_STATUS=000 HTTP_BODY=''
  answer=$(curl -sS --noproxy '*' -m "$seconds" -w '\n%{http_code}' "$@" -- "$url" 2>/dev/null) || return 1
  HTTP_STATUS=${answer##*$'\n'} HTTP_BODY=${answer%$'\n'*}
  [[ $HTTP_STATUS == 2?? ]]
}

api() { # METHOD PATH [CURL OPTION…]: with the operator's token, which stays off the command line
  local method=$1 path=$2; shift 2
  http 20 "http://127.0.0.1:$ADMIN_PORT$path" -X "$method" "$@" -K <(printf 'header = "authorization: Bearer %s"\n' "$(cat "$STATE/admin-token")")
}

top_level() { # KEY: the number or word it has at the top of the JSON object in HTTP_BODY, in REPLY
  # Nested objects and arrays are cut away from the inside out, then the key can only be the top one.
  REPLY=$(tr -d '\n' <<<"$HTTP_BODY" | sed -E ':a; s/\[[^][{}]*\]//g; s/(.)\{[^{}]*\}/\1/g; ta' \
    | sed -nE "s/.*\"$1\"[[:space:]]*:[[:space:]]*\"?([A-Za-z0-9_.-]+)\"?.*/\1/p")
}

control_plane_ready() { http 2 "http://127.0.0.1:$ADMIN_PORT/readyz"; }

revision_acknowledged() { # [AT_LEAST]: every live node's every worker runs the newest revision
  api GET /api/v1/status || return 1
  top_level acknowledged; [[ $REPLY == true ]] || return 1
  top_level revision; [[ $REPLY =~ ^[0-9]+$ ]] && (( REPLY >= ${1:-1} ))
}

edge_answers() { # the edge runs: 200, or 401 where callers need a key
  # (its certificate is for a name that this address is not)
  edge_base_url; http 3 "$REPLY/v1/models" --insecure || [[ $HTTP_STATUS == 401 ]]
}

or_dead() { # PART COMMAND…: true also when PART has died, so that nobody waits for it in vain
  local part=$1; shift
  "$@" || ! part_pid "$part"
}
