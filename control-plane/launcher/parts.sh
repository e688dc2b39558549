# The parts: PostgreSQL, provider, control plane and agent, each brought up if it is not.

pg_binaries() { # the directory of PostgreSQL's programs in REPLY: of the cluster's own version, else the newest
  local version=''
  [[ ! -e $STATE/postgres/data/PG_VERSION ]] || version=$(as_user cat -- "$STATE/postgres/data/PG_VERSION")
  REPLY=$(compgen -G "/usr/lib/postgresql/${version:-*}/bin" | sort -V | tail -n 1 || true)
  [[ -n $REPLY ]] || fail "the database in $state_shown is of PostgreSQL $version, which is not installed any more; install postgresql-$version"
}

single_user() { # BIN DATA: the statements of stdin, one a line, in a cluster that does not run; all that it says on stderr
  as_user timeout 60 "$1/postgres" --single -c log_min_error_statement=panic -D "$2" postgres 2>&1 | tee /dev/stderr | { ! grep -qE 'ERROR|FATAL|PANIC'; } || return 1
}

reader_roles() { # PASSWORD: who may read the reports, and a login for that; not CREATEROLE, which could make itself nearly a superuser
  cat <<END
do \$\$ begin if not exists (select from pg_roles where rolname = 'evenkeel_report') then create role evenkeel_report nologin; end if; end \$\$;
do \$\$ begin if not exists (select from pg_roles where rolname = 'evenkeel_reader') then create role evenkeel_reader login in role evenkeel_report; end if; end \$\$;
alter role evenkeel_reader password '$1';
END
}

add_reader() { # BIN: to a cluster that does not run and was made without
  random_secret | write_file 600 "$STATE/postgres/reader-password.new"
  reader_roles "$(as_user cat -- "$STATE/postgres/reader-password.new")" | single_user "$1" "$STATE/postgres/data" \
    && as_user mv -- "$STATE/postgres/reader-password.new" "$STATE/postgres/reader-password"
}

grant_reports() { # a restored database has lost its grants, and an older one never had them
  pg_program psql -qX -v ON_ERROR_STOP=1 -c "set lock_timeout = '5s'; set statement_timeout = '20s'" -c 'grant usage on schema report to evenkeel_report' \
    -c 'grant select on all tables in schema report to evenkeel_report' >"$STATE/run/reports.log" 2>&1 8<&- \
    || say "note: the role evenkeel_report cannot read the reports: $(head -n 1 "$STATE/run/reports.log")"
}

create_cluster() { # BIN: the role evenkeel owns the one database; nobody can log in as superuser
  local cluster=$STATE/postgres
  as_user mkdir -p -m 700 -- "$cluster"
  as_user rm -rf -- "$cluster/data.new"
  random_secret | write_file 600 "$cluster/password"
  random_secret | write_file 600 "$cluster/reader-password"
  as_user "$1/initdb" -D "$cluster/data.new" -U postgres --auth-local=reject --auth-host=scram-sha-256 \
    -E UTF8 --locale=C.UTF-8 --no-instructions \
  && { printf '%s\n' "create role evenkeel login password '$(<"$cluster/password")';" "create database evenkeel owner evenkeel;"
       reader_roles "$(<"$cluster/reader-password")"; } | single_user "$1" "$cluster/data.new" \
  && as_user mv -- "$cluster/data.new" "$cluster/data"
}

postgres_ready() { "$1/pg_isready" -q -h 127.0.0.1 -p "$POSTGRES_PORT" -d evenkeel -U evenkeel; }

ensure_postgres() {
  part_pid postgres && return 0
  local bin log=$STATE/postgres/postgres.log before=$POSTGRES_PORT; pg_binaries; bin=$REPLY
  choose_port POSTGRES_PORT 5499
  [[ $before == "$POSTGRES_PORT" ]] || stop_part control-plane      # it would look for its database at the old port
  if [[ ! -d $STATE/postgres/data ]]; then
    step 'creating the private PostgreSQL cluster'
    as_user mkdir -p -m 700 -- "$STATE/postgres"
    ( cd "$STATE" && create_cluster "$bin" ) >"$STATE/run/initdb.log" 2>&1 \
      || fail 'the PostgreSQL cluster could not be created' "$STATE/run/initdb.log"
    step_done
  fi
  step "starting PostgreSQL on 127.0.0.1:$POSTGRES_PORT"
  # After a crash the pid in postmaster.pid may belong to another process by now; PostgreSQL would refuse to start.
  stack_pids | xargs -r -I{} cat /proc/{}/comm 2>/dev/null | grep -q postgres || as_user rm -f -- "$STATE/postgres/data/postmaster.pid"
  as_user test -s "$STATE/postgres/reader-password" || ( cd "$STATE" && add_reader "$bin" ) >"$STATE/run/reader.log" 2>&1 \
    || say 'note: there is no login for the reports yet; the next start of PostgreSQL tries again'
  part_env=()
  start_part postgres "$STATE/postgres/data" "$log" "$bin/postgres" -D "$STATE/postgres/data" \
    -c listen_addresses=127.0.0.1 -c "port=$POSTGRES_PORT" -c unix_socket_directories= -c max_connections=100 \
    -c "cluster_name=evenkeel" -c log_line_prefix='%m [%p] '
  wait_until 60 or_dead postgres postgres_ready "$bin" && part_pid postgres || fail 'PostgreSQL did not start' "$log"
  step_done
}

ensure_provider() { # the demo's three instances with the article's ceilings, and one that speaks the lesser model
  [[ $MODE == demo ]] || return 0
  part_pid provider && return 0
  local name port
  for name in A B C LITE CONTROL; do
    port=PROVIDER_${name}_PORT; port=${!port}
    ! listening "$port" || { port_holder "$port"; fail "port $port, which belongs to the demo's providers, is used by $REPLY; free it, or let ./evenkeel down$with_state, then up, choose another"; }
  done
  step 'starting the demo providers'
  part_env=("DOTNET_CLI_HOME=$STATE/run" DOTNET_gcServer=0)
  start_part provider "$STATE/provider" "$STATE/provider/provider.log" \
    "$DOTNET" "$STATE/release/provider/evenkeel-provider.dll" --control "127.0.0.1:$PROVIDER_CONTROL_PORT" \
    --instance "a=127.0.0.1:$PROVIDER_A_PORT,ceiling=50,latency_ms=800" \
    --instance "b=127.0.0.1:$PROVIDER_B_PORT,ceiling=50,latency_ms=800" \
    --instance "c=127.0.0.1:$PROVIDER_C_PORT,ceiling=20,latency_ms=800" \
    --instance "lite=127.0.0.1:$PROVIDER_LITE_PORT,ceiling=40,latency_ms=300"
  wait_until 20 or_dead provider listening "$PROVIDER_LITE_PORT" && part_pid provider \
    || fail 'the demo providers did not start' "$STATE/provider/provider.log"
  step_done
}

set_control_plane_env() {
  local name
  part_env=()
  for name in $ENV_NAMES; do
    [[ -z ${caller_environment[$name]+set} ]] || part_env+=("$name=${caller_environment[$name]}")
  done
  part_env+=("Evenkeel__Listen=http://127.0.0.1:$ADMIN_PORT"
    "Evenkeel__Database=Host=127.0.0.1;Port=$POSTGRES_PORT;Database=evenkeel;Username=evenkeel"
    "Evenkeel__DatabasePasswordFile=$STATE/postgres/password" "Evenkeel__AdminTokenFile=$STATE/admin-token"
    "Evenkeel__NodeTokenFile=$STATE/node-token" "Evenkeel__SecretKeyFile=$STATE/control-plane/secret.key"
    "HOME=$STATE/control-plane" "DOTNET_CLI_HOME=$STATE/control-plane" DOTNET_gcServer=0 DOTNET_TieredPGO=0)
}

ensure_control_plane() {
  local log=$STATE/control-plane/control-plane.log name
  if ! part_pid control-plane; then
    for name in $ENV_NAMES; do
      [[ -n ${caller_environment[$name]+set} ]] || say "note: the configuration refers to env:$name, which is not set"
    done
    need_port "$ADMIN_PORT" 'the control plane' --admin-port
    step "starting the control plane on 127.0.0.1:$ADMIN_PORT"
    set_control_plane_env
    start_part control-plane "$STATE/release/control-plane" "$log" "$DOTNET" Evenkeel.ControlPlane.dll
  else
    step 'asking the control plane'
  fi
  wait_until 60 or_dead control-plane control_plane_ready && part_pid control-plane \
    || fail 'the control plane is not ready' "$log"
  step_done
}

restart_control_plane() { # with the variables that the caller has set now, and the others as it had them
  local pair
  while IFS= read -r -d '' pair; do
    [[ " $ENV_NAMES " != *" ${pair%%=*} "* || -n ${caller_environment[${pair%%=*}]:-} ]] || caller_environment[${pair%%=*}]=${pair#*=}
  done < <(part_pid control-plane && as_user cat -- "/proc/$REPLY/environ" 2>/dev/null)
  stop_part control-plane
  write_record
  ensure_control_plane
}

lacks_what_is_set() { # names, in REPLY, that the running configuration refers to in vain, whoever wrote them, and that the caller has set
  local name names=''
  api GET /api/v1/status || return 1
  for name in $(fault_lines | sed -nE 's/.*the environment variable ([A-Za-z_][A-Za-z0-9_]*) is not set$/\1/p' | sort -u); do
    [[ -z ${caller_environment[$name]:-} ]] || names+="${names:+ }$name"
  done
  REPLY=$names
  [[ -n $names ]]
}

hand_over_what_lacks() {
  lacks_what_is_set || return 0
  say "restarting the control plane, which does not have this yet: $REPLY"
  ENV_NAMES=$(tr -s ' ' '\n' <<<"$ENV_NAMES $REPLY" | sort -u | xargs)
  restart_control_plane
  await_acknowledgement
}

put_config() { # publishes the checked copy, which goes then: revision, changed and reload in the like-named variables
  local file; file=$(compgen -G "$STATE/config.*" | head -n 1) || fail "there is no configuration to publish: ./evenkeel up --config FILE$with_state"
  config_extension "$file"
  api PUT /api/v1/config -H "content-type: application/$REPLY" --data-binary "@$file" || return 1
  as_user rm -f -- "$file"      # it may hold keys in clear; the database has them encrypted
  top_level revision; revision=$REPLY
  top_level changed; changed=$REPLY
  top_level reload; reload=$REPLY
}
revision='' changed='' reload=''

fault_lines() { # every fault of HTTP_BODY, one a line
  tr -d '\n' <<<"$HTTP_BODY" | grep -oE '"path"[[:space:]]*:[[:space:]]*"([^"\\]|\\.)*"[[:space:]]*,[[:space:]]*"message"[[:space:]]*:[[:space:]]*"([^"\\]|\\.)*"' \
    | sed -E 's/"path"[[:space:]]*:[[:space:]]*"(.*)"[[:space:]]*,[[:space:]]*"message"[[:space:]]*:[[:space:]]*"(.*)"/  \1: \2/; s/\\"/"/g; s/\\\\/\\/g' || true
}

why_refused() { # HTTP_BODY is a problem document: its words, one fault a line
  local words key; words=$(fault_lines)
  for key in detail title; do
    [[ -n $words ]] || words=$(tr -d '\n' <<<"$HTTP_BODY" | sed -nE 's/.*"'"$key"'"[[:space:]]*:[[:space:]]*"(([^"\\]|\\.)*)".*/  \1/; T; s/\\"/"/g; s/\\\\/\\/g; p')
  done
  printf '%s\n' "${words:-  ${HTTP_STATUS} ${HTTP_BODY:0:500}}"
}

refused() { # the end of a command that the control plane did not do
  local words; words=$(why_refused)
  if [[ $words == *$'\n'* ]]; then words=$'\n'$words; else words=${words#  }; fi
  fail "the control plane refused: $words"
}

as_json=false
take_json() { if (( ${#rest[@]} > 0 )) && [[ ${rest[-1]} == --json ]]; then as_json=true; unset 'rest[-1]'; fi; }

show_list() { # COLUMNS: the array in HTTP_BODY, each of it an o, as a table that PostgreSQL makes; as it is where it cannot, or --json asks for it
  local tag=t$SRANDOM
  ! $as_json && printf 'select %s from jsonb_array_elements($%s$%s$%s$) as o;\n' "$1" "$tag" "$HTTP_BODY" "$tag" \
    | pg_program psql -qX -v ON_ERROR_STOP=1 -P border=0 -P footer=off 2>/dev/null || printf '%s\n' "$HTTP_BODY"
}

tell_faults() { # what the running revision had to leave out, and what to do; false if there is nothing of it
  local faults instances
  api GET /api/v1/status && faults=$(fault_lines) && [[ -n $faults ]] || return 1
  instances=$(grep -cE '^  instances\[' <<<"$faults" || true)
  case $instances in
    0) printf '\nNOT ALL IS WELL:\n' ;;
    1) printf '\nNOT ALL IS WELL: 1 instance cannot be asked.\n' ;;
    *) printf '\nNOT ALL IS WELL: %s instances cannot be asked.\n' "$instances" ;;
  esac
  sed -E 's|the environment variable ([A-Za-z_][A-Za-z0-9_]*) is not set$|&; set it: \1=… ./evenkeel up'"$with_state"'|' <<<"$faults"
}

ensure_config() { # once: what an operator changed through the API since is not overwritten by a restart
  if [[ $config_given == false ]] && api GET /api/v1/status; then
    top_level revision
    if [[ $REPLY =~ ^[1-9] ]]; then return 0; fi
  fi
  step 'publishing the configuration'
  put_config || fail "the control plane refused the configuration:"$'\n'"$(why_refused)"
  step_done "revision $revision"
}

moved_from=()      # where the demo's providers were, in the order of DEMO_INSTANCES, when their ports were looked at anew
readonly DEMO_INSTANCES=(a b c lite)

move_instances() { # the demo's instances follow its providers, whose ports somebody else had taken
  local index instance port
  for index in "${!moved_from[@]}"; do
    instance=${DEMO_INSTANCES[index]} port=PROVIDER_${DEMO_INSTANCES[index]^^}_PORT
    [[ ${moved_from[index]} != "${!port}" ]] && api GET "/api/v1/instances/$instance" || continue
    grep -qF "\"http://127.0.0.1:${moved_from[index]}/v1\"" <<<"$HTTP_BODY" || continue
    step "port ${moved_from[index]} is taken: moving instance $instance to ${!port}"
    api PATCH "/api/v1/instances/$instance" -H 'content-type: application/json' -d "{\"base_url\":\"http://127.0.0.1:${!port}/v1\"}" \
      || fail "instance $instance could not be moved:"$'\n'"$(why_refused)"
    record_before=$(cat "$STATE/stack.env")      # whatever becomes of this `up`, that is where they are
    step_done
  done
}

agent_log_bytes=0
mark_agent_log() { agent_log_bytes=$(stat -c %s -- "$STATE/node/logs/agent.log" 2>/dev/null || echo 0); }
agent_log() { tail -c "+$(( agent_log_bytes + 1 ))" -- "$STATE/node/logs/agent.log" 2>/dev/null || true; }      # since the mark
nginx_refused() { agent_log | grep ': refused (' >/dev/null; }

# When nginx refuses the first text it is ever given, there is none to go back to.
node_started_or_hopeless() { nginx_pid || ! part_pid agent || { [[ ! -e $STATE/node/nginx.conf.last-good ]] && nginx_refused; }; }
acknowledged_or_refused() { revision_acknowledged "$1" || nginx_refused || { [[ -z $revision && " ${started[*]} " != *' agent '* ]] && refusal; }; }

refusal() { # what this machine's node should run, it has refused: nginx's words in REPLY
  local digest
  api GET "/api/v1/nodes/$NODE_NAME" || return 1
  digest=$(sed -nE 's/.*"desired_text_digest":"([0-9a-f]{64})".*/\1/p' <<<"$HTTP_BODY")
  [[ -n $digest && $HTTP_BODY =~ \"last_refusal\":\{.*\"words\":\"(([^\"\\]|\\.)*)\".*\"text_digest\":\"$digest\" ]] || return 1
  REPLY=$(printf %b "${BASH_REMATCH[1]}" | tr -d '\000-\010\013-\037\177')
}

what_goes_on() { # in REPLY
  REPLY=$(sed -nE 's/.* agent: revision ([1-9][0-9]*): applied .*/\1/p' "$STATE/node/logs/agent.log" 2>/dev/null | tail -n 1 || true)
  REPLY="the nginx.conf of $( [[ -n $REPLY ]] && echo "revision $REPLY" || echo before ) goes on"
}

ensure_agent() {
  part_pid agent && return 0
  local log=$STATE/node/logs/agent.log
  if ! nginx_pid; then
    need_port "${EDGE_LISTEN##*:}" 'the gateway' --port
    choose_port NODE_ADMIN_PORT 9145
  fi
  step "starting the node on $EDGE_LISTEN"
  as_user ln -sfn ../release/lua "$STATE/node/lua"
  part_env=("EVENKEEL_NODE_NAME=$NODE_NAME" "EVENKEEL_NODE_DIR=$STATE/node"
    "EVENKEEL_CONTROL_URL=http://127.0.0.1:$ADMIN_PORT" "EVENKEEL_NODE_TOKEN_FILE=$STATE/node-token"
    "EVENKEEL_ADMIN_LISTEN=127.0.0.1:$NODE_ADMIN_PORT"
    "EVENKEEL_EDGE_LISTEN=${EDGE_PORT_OVERRIDE:+$EDGE_LISTEN}" "EVENKEEL_WORKERS=$WORKERS")
  # Debian's nginx is the agent's own choice; OpenResty's place is not on its PATH.
  [[ -e $LUA_MODULE ]] || part_env+=("NGINX=$(type -P openresty || echo /usr/local/openresty/nginx/sbin/nginx)")
  mark_agent_log
  start_part agent "$STATE/node" "$log" bash "$STATE/release/nginx/agent.sh"
  wait_until 20 node_started_or_hopeless && part_pid agent && nginx_pid || fail 'the node did not start' "$log"
  step_done
}

await_acknowledgement() { # [REVISION]
  local newest=${1:-1} sentence words goes_on=''
  step 'waiting until all workers run the revision'
  if wait_until 30 acknowledged_or_refused "$newest" && revision_acknowledged "$newest"; then
    top_level revision
    step_done "revision $REPLY"
    read_live_listen
    return 0
  fi
  ! $ran_before || up_finished=true      # the last good text serves
  if api GET /api/v1/status; then top_level revision; newest=${REPLY:-$newest}; fi
  if nginx_pid; then what_goes_on; goes_on="; $REPLY"; fi
  sentence="the node does not run revision $newest yet" words=$(agent_log | tail -n 25)
  if nginx_refused || refusal; then
    sentence="revision $newest is refused"
    if wait_until 3 refusal; then words=$REPLY; fi      # (the agent reports what it has logged)
  fi
  fail "$sentence$goes_on:
    | ${words//$'\n'/$'\n    | '}
    revision $newest stays the wanted one until you apply another (./evenkeel apply FILE$with_state) or roll back (the dashboard, or POST /api/v1/revisions/N/rollback)
    the whole log: $STATE/node/logs/agent.log"
}
