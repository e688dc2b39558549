# ./evenkeel up

demo_question='{"model":"deepseek-chat","messages":[{"role":"user","content":"Hello!"}]}'

ran_before=false      # there is a text that workers have run: what serves again is not stopped because something else is wrong

real_check() { # the demo answers a real question; a real provider's tokens are not ours to spend
  # Revived parts get time: breakers may be open still.
  local patience_s=45 question=edge_answers words; $from_nothing && patience_s=5
  ! demo_in_force || question=demo_answers
  step 'asking through the gateway'
  if wait_until "$patience_s" "$question"; then step_done; return 0; fi
  words="the gateway answered $HTTP_STATUS: ${HTTP_BODY:0:300}"
  [[ $HTTP_STATUS != 000 ]] || words='the gateway does not answer'
  $ran_before || fail "$words" "$STATE/node/logs/error.log"
  step_done 'no answer'
  say "note: $words; it is left running, and ./evenkeel logs nginx$with_state may tell why"
}

# The first revision is what the launcher published; later ones may want a key of the caller, or ask a real provider.
demo_in_force() { [[ $MODE == demo ]] && api GET /api/v1/status && top_level revision && [[ $REPLY == 1 ]]; }

demo_answers() { edge_base_url; http 20 "$REPLY/v1/chat/completions" -H 'content-type: application/json' -d "$demo_question"; }

print_addresses() {
  local base model key=''
  edge_base_url; base=$REPLY
  # The curl line asks for a model that this gateway really has.
  http 3 "$base/v1/models" --insecure || true
  model=$(grep -oE '"id"[[:space:]]*:[[:space:]]*"[^"*]+"' <<<"$HTTP_BODY" | head -n 1 | sed -E 's/.*"([^"]+)"$/\1/' || true)
  [[ $HTTP_STATUS != 401 ]] || key=" -H 'authorization: Bearer CLIENT_KEY'"
  cat <<END

  base URL     $base/v1
  dashboard    http://127.0.0.1:$ADMIN_PORT/  (REST API: /openapi)
  admin token  $state_shown/admin-token
  try it:
    curl -s $base/v1/chat/completions$key -H 'content-type: application/json' -d '${demo_question/deepseek-chat/${model:-deepseek-chat}}'
END
  ! demo_in_force || cat <<END
  break one, and mend it:
    curl -X POST http://127.0.0.1:$PROVIDER_CONTROL_PORT/instances/b/down
    curl -X POST http://127.0.0.1:$PROVIDER_CONTROL_PORT/instances/b/up
END
}

any_part_alive() { local part; for part in "${PARTS[@]}" nginx; do part_pid "$part" && return 0; done; return 1; }

dead_parts() { # in REPLY
  local part dead=''
  for part in "${PARTS[@]}" nginx; do
    [[ $part == provider && $MODE != demo ]] || part_pid "$part" || dead+="${dead:+ }$part"
  done
  REPLY=$dead
}

option_port() { [[ $2 =~ ^[0-9]{1,5}$ ]] && (( 10#$2 >= 1 && 10#$2 <= 65535 )) || usage_fault "$1 takes a port number, not '$2'" up; }

config_given=false

command_up() {
  local config='' port='' admin_port='' workers='' state='' began_ms
  now_ms; began_ms=$REPLY
  while (( $# > 0 )); do
    case $1 in
      --config|--port|--admin-port|--state|--workers) [[ $# -ge 2 && -n $2 ]] || usage_fault "$1 needs a value" up ;;
      *) usage_fault "up does not know '$1'" up ;;
    esac
    case $1 in
      --config) config=$2; config_given=true ;;
      --port) option_port "$@"; port=$(( 10#$2 )) ;;
      --admin-port) option_port "$@"; admin_port=$(( 10#$2 )) ;;
      --state) state=$2 ;;
      --workers) [[ $2 == auto || $2 =~ ^[1-9][0-9]{0,2}$ ]] || usage_fault "--workers takes a number or auto, not '$2'" up; workers=$2 ;;
    esac
    shift 2
  done
  if $config_given; then
    [[ -f $config ]] || fail "the configuration $config does not exist"
    [[ -r $config ]] || fail "the configuration $config cannot be read"
  fi
  if [[ -n ${EVENKEEL_RELEASE:-} && ! -s $EVENKEEL_RELEASE/stamp ]]; then
    fail "EVENKEEL_RELEASE=$EVENKEEL_RELEASE is no release (./evenkeel build makes one)"
  fi
  locate_state "$state"
  use_run_user
  [[ ! -d $STATE ]] || { lock_state; settle_restore; read_record; }
  [[ ! -e $STATE/node/nginx.conf.last-good ]] || ran_before=true
  mark_agent_log

  if [[ -d $STATE ]] && any_part_alive; then
    up_of_a_running_stack "$config" "$port" "$admin_port" "$workers"
  else
    up_from_nothing "$config" "$port" "$admin_port" "$workers"
  fi
  up_finished=true
  tenths_since "$began_ms"
  printf 'Evenkeel is up (%s s).\n' "$REPLY"
  print_addresses
  tell_faults || true
}

up_of_a_running_stack() { # CONFIG PORT ADMIN_PORT WORKERS: nothing to do, or only what has died
  local recorded_port=${EDGE_LISTEN##*:} digest
  [[ -z $2 || $2 == "$recorded_port" ]] || fail "Evenkeel is already up on port $recorded_port; run ./evenkeel down$with_state first to move it to $2"
  [[ -z $3 || $3 == "$ADMIN_PORT" ]] || fail "Evenkeel's control plane is already up on port $ADMIN_PORT; run ./evenkeel down$with_state first to move it to $3"
  [[ -z $4 || $4 == "${WORKERS:-auto}" ]] || fail "Evenkeel is already up with ${WORKERS:-the configured} workers; run ./evenkeel down$with_state first to change that"
  if $config_given; then
    digest=$(sha256sum <"$1"); digest=${digest%% *}
    [[ $digest == "$CONFIG_DIGEST" ]] || fail "Evenkeel is already up with another configuration; ./evenkeel apply $1$with_state changes it while it runs"
    config_given=false
  fi
  dead_parts
  local dead=$REPLY
  if [[ -z $dead ]] && control_plane_ready && revision_acknowledged && edge_answers && ! lacks_what_is_set; then
    source_stamp
    [[ -n ${EVENKEEL_RELEASE:-} || $(cat "$STATE/release/stamp") == "$REPLY" ]] \
      || say "note: the sources have changed since; ./evenkeel down$with_state, then up, runs the new ones"
    printf 'Evenkeel is already up: nothing to do.\n'
    print_addresses
    tell_faults || true
    exit 0
  fi
  if [[ -n $dead ]]; then say "not running: $dead; starting again what has died"; else say 'all parts run, but not all is well; waiting for it'; fi
  need_dotnet runtime
  up_finished=false
  start_parts
}

up_from_nothing() { # CONFIG PORT ADMIN_PORT WORKERS
  local config=$1 address
  printf 'Evenkeel is starting%s.\n' "$( $config_given && echo " with $config" || { [[ ${MODE:-demo} != demo ]] || echo ' the demo (three simulated instances)'; } )"
  # First everything that can be refused without having touched anything.
  if $config_given; then
    MODE=config ENV_NAMES=$(named_variables "$config")
    CONFIG_DIGEST=$(sha256sum <"$config"); CONFIG_DIGEST=${CONFIG_DIGEST%% *}
    configured_listen "$config"; EDGE_LISTEN=$REPLY
    [[ -n $2 ]] || EDGE_PORT_OVERRIDE=''
  fi
  MODE=${MODE:-demo} EDGE_LISTEN=${EDGE_LISTEN:-127.0.0.1:8080}
  [[ -z $2 ]] || EDGE_PORT_OVERRIDE=$2
  if [[ -n $EDGE_PORT_OVERRIDE ]]; then
    address=127.0.0.1; [[ $EDGE_LISTEN != *:* ]] || address=${EDGE_LISTEN%:*}
    EDGE_LISTEN=$address:$EDGE_PORT_OVERRIDE
  fi
  [[ $EDGE_LISTEN == *:* ]] || EDGE_LISTEN=127.0.0.1:$EDGE_LISTEN
  ADMIN_PORT=${3:-${ADMIN_PORT:-8081}} WORKERS=${4:-$WORKERS}
  [[ ${EDGE_LISTEN##*:} != "$ADMIN_PORT" ]] || fail "the gateway and the control plane cannot both have port $ADMIN_PORT; choose with --port N and --admin-port N"
  need_port "${EDGE_LISTEN##*:}" 'the gateway' --port
  need_port "$ADMIN_PORT" 'the control plane' --admin-port
  chosen_ports=" ${EDGE_LISTEN##*:} $ADMIN_PORT "
  need_dotnet runtime

  up_finished=false from_nothing=true
  ensure_packages
  if [[ -z ${EVENKEEL_RELEASE:-} ]]; then
    exec 9<"$ROOT/evenkeel"; flock 9      # two builds in one checkout would tread on each other
    build_release
  fi
  use_run_user create
  make_state
  [[ -e /proc/self/fd/8 ]] || lock_state
  ensure_release
  exec 9<&-
  if [[ -n $(stack_pids) ]]; then
    step 'ending what a killed run has left'
    stop_everything || fail "these processes would not end: $(stack_pids | tr '\n' ' ')"
    step_done
  fi
  need_runtime_for_user
  ensure_secret admin-token
  ensure_secret node-token
  if $config_given; then
    validate_config "$config"
  elif [[ $MODE == demo ]]; then
    local before="$PROVIDER_A_PORT $PROVIDER_B_PORT $PROVIDER_C_PORT $PROVIDER_LITE_PORT"
    choose_port PROVIDER_CONTROL_PORT 9200
    choose_port PROVIDER_A_PORT 9201
    choose_port PROVIDER_B_PORT 9202
    choose_port PROVIDER_C_PORT 9203
    choose_port PROVIDER_LITE_PORT 9204
    if [[ $before == '   ' ]]; then
      write_demo_config
      config_given=true
    else
      read -ra moved_from <<<"$before"
    fi
  fi
  write_record
  start_parts
}

start_parts() {
  ensure_postgres
  ensure_provider
  ensure_control_plane
  grant_reports
  ensure_config
  move_instances
  ensure_agent
  write_record
  await_acknowledgement
  hand_over_what_lacks
  real_check
}
