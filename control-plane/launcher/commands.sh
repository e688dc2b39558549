# The commands that talk to a stack or look at it, or that build and test.

state_option() { # COMMAND ARGS…: --state DIR of a command that takes little else; the rest in rest=()
  local command=$1 state=''; shift
  rest=()
  while (( $# > 0 )); do
    case $1 in
      --state) [[ $# -ge 2 && -n $2 ]] || usage_fault '--state needs a value' "$command"; state=$2; shift 2 ;;
      *) rest+=("$1"); shift ;;
    esac
  done
  locate_state "$state"
  use_run_user
  read_record
}
rest=()

command_down() {
  local purge=false yes=false wait=''
  state_option down "$@"
  set -- "${rest[@]}"
  while (( $# > 0 )); do
    case $1 in
      --purge) purge=true ;;
      --yes|-y) yes=true ;;
      --wait) [[ ${2:-} =~ ^[0-9]{1,5}$ ]] || usage_fault '--wait takes a number of seconds' down; wait=$(( 10#$2 )); shift ;;
      *) usage_fault "down does not know '$1'" down ;;
    esac
    shift
  done
  if [[ ! -d $STATE ]]; then
    printf 'Evenkeel is not running: there is no state directory %s.\n' "$state_shown"
    return 0
  fi
  if $purge && ! $yes; then
    [[ -t 0 ]] || fail "down --purge removes all data in $state_shown; say --yes when nobody can be asked"
    read -r -p "Remove all data in $state_shown (configuration, revisions, tokens)? [y/N] " REPLY
    [[ $REPLY == [yY]* ]] || fail 'nothing was stopped, nothing was removed'
  fi
  lock_state
  if $purge; then end_restore_processes || true; else settle_restore; fi
  local before; before=$(stack_pids | wc -l)
  if (( before > 0 )); then
    step "stopping Evenkeel${wait:+; answers under way get $wait s}"
    if [[ -n $wait ]] && part_pid agent; then
      answers_get_s=$wait
      write_file 640 "$STATE/node/run/stop-wait-s" <<<"$wait"
    else
      as_user rm -f -- "$STATE/node/run/stop-wait-s"
    fi
    stop_everything || fail "these processes would not end: $(stack_pids | tr '\n' ' ')"
    step_done
    printf 'Evenkeel is down; no process is left%s.\n' "$($purge || echo ', the data is kept')"
  else
    rm -f -- "$STATE"/run/*.{pid,started}
    printf 'Evenkeel is not running.\n'
  fi
  if $purge; then
    rm -rf -- "$STATE"
    [[ ! -L $state_shown ]] || rm -f -- "$state_shown"
    printf 'Removed %s.\n' "$state_shown"
  fi
}

uptime_of() { # PID: "3m 12s" in REPLY
  local ticks now; process_start "$1" || return 0
  ticks=${REPLY##* }; read -r now _ </proc/uptime
  local seconds=$(( ${now%.*} - ticks / $(getconf CLK_TCK) ))
  if (( seconds >= 86400 )); then REPLY="$(( seconds / 86400 ))d $(( seconds % 86400 / 3600 ))h"
  elif (( seconds >= 3600 )); then REPLY="$(( seconds / 3600 ))h $(( seconds % 3600 / 60 ))m"
  elif (( seconds >= 60 )); then REPLY="$(( seconds / 60 ))m $(( seconds % 60 ))s"
  else REPLY="$(( seconds < 0 ? 0 : seconds ))s"; fi
}

part_ports() { # PART: in REPLY
  case $1 in
    postgres) REPLY=$POSTGRES_PORT ;;
    provider) REPLY=$PROVIDER_A_PORT,$PROVIDER_B_PORT,$PROVIDER_C_PORT,$PROVIDER_LITE_PORT ;;
    control-plane) REPLY=$ADMIN_PORT ;;
    nginx) REPLY=${EDGE_LISTEN##*:},$NODE_ADMIN_PORT ;;
    *) REPLY=- ;;
  esac
}

command_status() {
  state_option status "$@"
  (( ${#rest[@]} == 0 )) || usage_fault "status does not know '${rest[0]}'" status
  if [[ ! -e $STATE/stack.env ]] || ! any_part_alive; then
    printf 'Evenkeel is not running (%s).\n' "$state_shown"
    ! swap_begun || printf 'A restore was interrupted while it replaced the data; nothing is lost, and ./evenkeel up%s finishes it first.\n' "$with_state"
    exit 1
  fi
  local part pid ports up well=true
  printf '%-14s %8s  %-24s %-10s %s\n' PART PID PORT UP-FOR STATE
  for part in "${PARTS[@]}" nginx; do
    [[ $part != provider || $MODE == demo ]] || continue
    part_ports "$part"; ports=$REPLY
    if part_pid "$part"; then
      pid=$REPLY; uptime_of "$pid"; up=$REPLY
      printf '%-14s %8s  %-24s %-10s %s\n' "$part" "$pid" "$ports" "$up" "$(part_state "$part")"
    else
      printf '%-14s %8s  %-24s %-10s %s\n' "$part" - "$ports" - 'not running'
      well=false
    fi
  done
  local now=unknown acknowledged=unknown words
  if api GET /api/v1/status; then
    top_level revision; now=$REPLY
    top_level acknowledged; acknowledged=$REPLY
  fi
  if [[ $acknowledged == false ]] && refusal; then
    words=$(sed -E 's/^[0-9/]+ [0-9:]+ \[[a-z]+\] [0-9#]+: //' <<<"$( grep -m 1 '\[emerg\]' <<<"$REPLY" || head -n 1 <<<"$REPLY" )")
    what_goes_on
    printf '\nrevision %s is refused: %s; %s\n' "$now" "$words" "$REPLY"
  else printf '\nrevision %s, %s\n' "${now:-none}" "$(case $acknowledged in true) echo 'acknowledged by all workers' ;; false) echo 'not acknowledged yet' ;; *) echo 'the control plane does not answer' ;; esac)"
  fi
  edge_answers || { printf 'the gateway does not answer\n'; well=false; }
  ! tell_faults || well=false
  [[ $acknowledged == true ]] && $well || exit 1
}

part_state() { # a word about a part that is alive
  case $1 in
    postgres) pg_binaries; if postgres_ready "$REPLY"; then echo ready; else echo 'not ready'; fi ;;
    control-plane) if control_plane_ready; then echo ready; else echo 'not ready'; fi ;;
    *) echo running ;;
  esac
}

log_file() { # PART: in REPLY
  case $1 in
    postgres) REPLY=$STATE/postgres/postgres.log ;;
    provider) REPLY=$STATE/provider/provider.log ;;
    control-plane) REPLY=$STATE/control-plane/control-plane.log ;;
    agent) REPLY=$STATE/node/logs/agent.log ;;
    nginx) REPLY=$STATE/node/logs/error.log ;;
    access) REPLY=$STATE/node/logs/access.log ;;
    *) usage_fault "there is no log of '$1': postgres, provider, control-plane, agent, nginx, access" logs ;;
  esac
}

command_logs() {
  local follow=false part; local -a parts=() files=()
  state_option logs "$@"
  for part in "${rest[@]}"; do
    case $part in -f|--follow) follow=true ;; *) parts+=("$part") ;; esac
  done
  (( ${#parts[@]} > 0 )) || parts=(postgres provider control-plane agent nginx)
  for part in "${parts[@]}"; do log_file "$part"; [[ ! -e $REPLY ]] || files+=("$REPLY"); done
  (( ${#files[@]} > 0 )) || fail "there are no logs yet in $state_shown"
  if $follow; then trap - EXIT; exec tail -n 20 -F -- "${files[@]}"; fi
  tail -n 100 -- "${files[@]}"
}

command_apply() {
  local file name value pid restart=''
  state_option apply "$@"
  (( ${#rest[@]} == 1 )) || usage_fault 'apply takes one FILE' apply
  file=${rest[0]}
  [[ -f $file && -r $file ]] || fail "the configuration $file does not exist or cannot be read"
  part_pid control-plane || fail "the control plane is not running; start it with ./evenkeel up$with_state"
  lock_state
  need_dotnet runtime
  # The control plane resolves env:NAME itself: new names and changed values reach it by a restart, which traffic does not feel.
  part_pid control-plane; pid=$REPLY
  for name in $(named_variables "$file"); do
    value=${caller_environment[$name]-}
    [[ -z $value ]] || as_user grep -qzxF -f <(printf '%s=%s' "$name" "$value") "/proc/$pid/environ" 2>/dev/null || restart+="$name "
  done
  ENV_NAMES=$(tr -s ' ' '\n' <<<"$ENV_NAMES $restart" | sort -u | xargs)     # until it is published, both files' names
  validate_config "$file"
  if [[ -n $restart ]]; then
    say "restarting the control plane, which does not have this ${restart% } yet"
    restart_control_plane
  fi
  mark_agent_log
  step 'publishing the configuration'
  if ! put_config; then
    printf '\n'; step_open=false
    printf 'evenkeel: the control plane refused %s:\n%s\n' "$file" "$(why_refused)" >&2
    exit 1
  fi
  step_done "revision $revision"
  ENV_NAMES=$(named_variables "$file")
  CONFIG_DIGEST=$(sha256sum <"$file"); CONFIG_DIGEST=${CONFIG_DIGEST%% *}
  write_record
  await_acknowledgement "$revision"
  case $changed,$reload in
    false,*) printf 'Nothing changed: revision %s runs already.\n' "$revision" ;;
    *,true) printf 'Revision %s runs; nginx was reloaded.\n' "$revision" ;;
    *) printf 'Revision %s runs; no reload was needed.\n' "$revision" ;;
  esac
  tell_faults || true      # the revision runs all the same
}

command_client() {
  local action name overlap method=PATCH path body='{}'
  state_option client "$@"
  take_json
  action=${rest[0]:-list} name=${rest[1]:-} overlap=${rest[2]:-}
  [[ $action == list || $name =~ ^[a-z0-9._-]{1,48}$ ]] || usage_fault 'client needs the NAME of a client (a-z 0-9 . _ -)' client
  (( ${#rest[@]} <= 3 )) && [[ $action == rotate || -z $overlap ]] && [[ $overlap =~ ^[0-9a-z.]*$ ]] || usage_fault 'client does not know what these mean' client
  path=/api/v1/clients/$name
  case $action in
    list) [[ -z $name ]] || usage_fault 'client list takes no NAME' client; method=GET path=/api/v1/clients body='' ;;
    add) method=POST path=/api/v1/clients body="{\"name\":\"$name\"}" ;;
    rotate) method=POST path+=/rotate; [[ -z $overlap ]] || body="{\"overlap\":\"$overlap\"}" ;;
    off) body='{"enabled":false}' ;;
    on) body='{"enabled":true}' ;;
    remove) method=DELETE body='' ;;
    *) usage_fault "client knows no '$action'" client ;;
  esac
  part_pid control-plane || fail "the control plane is not running; start it with ./evenkeel up$with_state"
  # shellcheck disable=SC2086  # two words or none
  api "$method" "$path" ${body:+-H content-type:application/json --data-binary "$body"} || refused
  case $as_json:$action in
    *:list) show_list "o->>'name' as name, o->>'enabled' as enabled, jsonb_array_length(o->'keys') as keys,
      coalesce((select string_agg(m, ',') from jsonb_array_elements_text(o->'models') m), 'all') as models" ;;
    *:remove) printf 'The client %s is removed.\n' "$name" ;;
    true:*) printf '%s\n' "$HTTP_BODY" ;;
    *:add|*:rotate) top_level key; printf '%s\n' "$REPLY" ;;        # alone: for a variable
    *:off) printf 'The client %s is off: its requests are refused.\n' "$name" ;;
    *:on) printf 'The client %s is on.\n' "$name" ;;
  esac
}

command_token() { # add NAME ROLE [--areas A,B] | list | revoke NAME
  state_option token "$@"
  [[ ${rest[0]:-} != list ]] || take_json
  part_pid control-plane || fail "the control plane is not running; start it with ./evenkeel up$with_state"
  local word=${rest[0]:-} name=${rest[1]:-} role=${rest[2]:-} areas='' said
  [[ $word == list || $name =~ ^[a-z0-9]([a-z0-9._-]{0,46}[a-z0-9])?$ ]] || usage_fault 'token takes: add NAME ROLE, list, or revoke NAME' token
  if [[ ${rest[3]:-} == --areas && ${#rest[@]} == 5 ]]; then
    [[ ${rest[4]} =~ ^[a-z]+(,[a-z]+)*$ ]] || usage_fault "--areas takes names with commas between, as in config,clients" token
    areas=",\"areas\":[\"${rest[4]//,/\",\"}\"]" rest=("${rest[@]:0:3}")
  fi
  case $word:${#rest[@]}:$role in
    list:1:) api GET /api/v1/tokens && said=$(show_list "o->>'name' as name, o->>'role' as role,
      coalesce((select string_agg(a, ',') from jsonb_array_elements_text(o->'areas') a), 'all') as areas,
      left(o->>'created_at', 19) || 'Z' as created, o->>'created_by' as by, coalesce(left(o->>'expires_at', 19) || 'Z', 'never') as expires") ;;
    add:3:viewer|add:3:operator|add:3:admin) api POST /api/v1/tokens --json "{\"name\":\"$name\",\"role\":\"$role\"$areas}" && { top_level token; said=$REPLY; } ;;
    revoke:2:) api DELETE "/api/v1/tokens/$name" && said="The token $name and its sessions have ended." ;;
    *) usage_fault 'token takes: add NAME viewer|operator|admin [--areas A,B], list, or revoke NAME' token ;;
  esac || refused
  printf '%s\n' "$said"
}

command_node() { # token [--name NAME] [--expires DURATION] | list | remove NAME
  state_option node "$@"
  [[ ${rest[0]:-} != list && ${rest[0]:-} != --json ]] || take_json
  part_pid control-plane || fail "the control plane is not running; start it with ./evenkeel up$with_state"
  local word=${rest[0]:-list} name='' expires=1h said
  set -- "${rest[@]:1}"
  while [[ $word == token && $# -ge 2 ]]; do
    case $1 in --name) name=$2 ;; --expires) expires=$2 ;; *) break ;; esac
    shift 2
  done
  [[ $word != remove || $# != 1 ]] || { name=$1; shift; }
  (( $# == 0 )) || usage_fault 'node takes: token [--name NAME] [--expires 1h], list, or remove NAME' node
  [[ $expires =~ ^[0-9]+(\.[0-9]+)?(s|m|h|d)$ ]] || usage_fault "--expires takes a duration as in 30m, 1h or 2d, not '$expires'" node
  [[ -z $name || $name =~ ^[a-z0-9]([a-z0-9._-]{0,46}[a-z0-9])?$ ]] || usage_fault "'$name' is no name of a node (a-z 0-9 . _ -)" node
  case $word:$name in
    token:*) api POST /api/v1/nodes/enrolments --json "{\"expires_in\":\"$expires\"${name:+,\"name\":\"$name\"}}" && { top_level token; said=$REPLY; } ;;
    list:) api GET /api/v1/nodes && said=$(show_list "o->>'name' as name, o->>'live' as live, o->>'acknowledged' as acknowledged, o->>'revision' as revision,
      jsonb_array_length(o->'workers') as workers, o->>'in_flight' as in_flight, left(o->>'last_seen_at', 19) || 'Z' as last_seen") ;;
    remove:?*) api DELETE "/api/v1/nodes/$name" && said="The node $name is removed. It goes on with what it has until you end its agent; it still knows the provider keys." ;;
    *) usage_fault 'node takes: token [--name NAME] [--expires 1h], list, or remove NAME' node ;;
  esac || refused
  printf '%s\n' "$said"
}

command_rotate-secret-key() { # [--prepare]
  local output code=0
  state_option rotate-secret-key "$@"
  part_pid postgres || fail "PostgreSQL is not running; start it with ./evenkeel up$with_state"
  lock_state
  need_dotnet runtime
  output=$( set_control_plane_env; clean_environment "${part_env[@]}" PATH=/usr/bin:/bin \
    && as_user timeout 300 "$DOTNET" "$STATE/release/control-plane/Evenkeel.ControlPlane.dll" rotate-secret-key "${rest[@]}" 2>&1 ) || code=$?
  printf '%s\n' "$output"
  return "$code"
}

command_build() {
  (( $# == 0 )) || usage_fault "build does not know '$1'" build
  exec 9<"$ROOT/evenkeel"; flock 9
  build_release
  printf 'The release is in %s/release.\n' "$BUILD"
}

command_test() {
  local -a missing; mapfile -t missing < <(missing_packages; missing_test_packages "$@")
  need_dotnet sdk
  if (( ${#missing[@]} > 0 )); then scratch_log; install_packages "$REPLY" "${missing[@]}"; fi
  trap - EXIT
  exec "$ROOT/tests/run.sh" "$@"
}

command_bench() { # its program knows the options; what it lacks of the peers it says, and measures the others
  local -a missing; mapfile -t missing < <(missing_packages; type -P luajit >/dev/null || echo luajit2; type -P wrk >/dev/null || echo wrk; [[ -x /usr/sbin/haproxy ]] || echo haproxy)
  need_dotnet sdk
  if (( ${#missing[@]} > 0 )); then scratch_log; install_packages "$REPLY" "${missing[@]}"; fi
  trap - EXIT
  exec dotnet run --project "$ROOT/tests/bench" -c Release -v q -- "$@"
}
