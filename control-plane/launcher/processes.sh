# Processes and ports: whose they are, start and stop.

# ---- processes ---------------------------------------------------------------------------------------------------

started=()          # parts that this very command started, to be stopped again should it fail

process_start() { # PID: boot and clock tick it started at, in REPLY; false when it is gone or a zombie
  local stat boot fields; { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
  read -ra fields <<<"${stat##*) }"
  [[ ${fields[0]} != [ZX] ]] || return 1
  read -r boot </proc/sys/kernel/random/boot_id
  REPLY="$boot ${fields[19]}"
}

part_pid() { # PART: its pid in REPLY if it is alive
  local pid recorded
  if [[ $1 == nginx ]]; then nginx_pid; return; fi
  { read -r pid <"$STATE/run/$1.pid" && read -r recorded <"$STATE/run/$1.started"; } 2>/dev/null || return 1
  [[ $pid =~ ^[0-9]+$ ]] && process_start "$pid" && [[ $REPLY == "$recorded" ]] || return 1
  REPLY=$pid
}

nginx_pid() { # nginx writes its own pid file; it is always started in node/, which tells it from a recycled pid
  local pid; { read -r pid <"$STATE/node/run/nginx.pid"; } 2>/dev/null || return 1
  [[ $pid =~ ^[0-9]+$ ]] && process_start "$pid" || return 1
  [[ $(readlink "/proc/$pid/cwd") == "$STATE/node" && $(cat "/proc/$pid/comm") == nginx* ]] 2>/dev/null || return 1
  REPLY=$pid
}

part_gone() { ! process_start "$1" || [[ $REPLY != "$2" ]]; }

stack_pids() { # every live process of this state directory, one a line
  # Parts and their children carry the mark. nginx and PostgreSQL overwrite their environment with their titles, so
  # they are known by their working directory; a shell that an operator left there is neither.
  local file pid
  { grep -lzxF -- "EVENKEEL_STACK=$STATE" /proc/[0-9]*/environ || true
    find /proc/[0-9]*/cwd -maxdepth 0 \( -lname "$STATE/node" -o -lname "$STATE/postgres/data" \) || true
  } 2>/dev/null | sort -u | while read -r file; do
    pid=${file#/proc/} pid=${pid%%/*}
    [[ $pid != "$$" && $pid != "$BASHPID" ]] && process_start "$pid" || continue
    case $file in */cwd) case $(cat "/proc/$pid/comm" 2>/dev/null || true) in nginx*|postgres*) ;; *) continue ;; esac ;; esac
    printf '%s\n' "$pid"
  done | sort -nu
}

signal() { as_user bash -c 'kill -s "$1" "$2" 2>/dev/null' signal "$1" "$2" || true; }

# The environment as the caller gave it, before any variable of ours took a name in it.
declare -A caller_environment=()
while IFS= read -r -d '' REPLY; do caller_environment[${REPLY%%=*}]=${REPLY#*=}; done </proc/$$/environ

clean_environment() { # NAME=VALUE…: these and nothing else (in a subshell; values never stand on a command line)
  local name
  for name in $(compgen -e); do export -n "${name?}"; done
  for name in "$@"; do export "${name?}"; done
}

part_env=()

start_part() { # PART DIRECTORY LOG COMMAND…: detached, in a session of its own, with part_env as its environment
  local part=$1 directory=$2 log=$3 name limit; shift 3
  local -a environment=()
  for name in SSL_CERT_FILE SSL_CERT_DIR TZ; do
    [[ -z ${caller_environment[$name]:-} ]] || environment+=("$name=${caller_environment[$name]}")
  done
  environment+=("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" "LANG=C.UTF-8" "HOME=$STATE/run"
    "EVENKEEL_STACK=$STATE" "${part_env[@]}")
  # The log is opened by the part's own user. Background jobs ignore INT and QUIT: undone for nginx and PostgreSQL.
  # A stream costs nginx four descriptors: the soft limit of a login shell (1024) would end at 250. A core file would hold every key.
  ( clean_environment "${environment[@]}"
    limit=$(ulimit -Hn); [[ $limit != unlimited ]] && (( limit < 65536 )) || limit=65536
    ulimit -Sn "$limit"
    ulimit -c 0
    exec setsid env --default-signal=INT,QUIT "${AS_USER[@]}" \
      bash -c 'umask 027; cd "$1" && exec >>"$2" 2>&1; shift 2; exec "$@"' start "$directory" "$log" "$@"
  ) </dev/null >/dev/null 2>&1 8<&- 9<&- &
  local pid=$!
  disown "$pid"
  started+=("$part")
  process_start "$pid" || fail "$part ended at once" "$log"
  printf '%s\n' "$REPLY" | write_file 640 "$STATE/run/$part.started"
  printf '%s\n' "$pid" | write_file 640 "$STATE/run/$part.pid"
}

answers_get_s=5     # as the agent has it, unless told

stop_part() { # PART: as its kind wants it, KILL when it takes too long
  local word=TERM seconds=15 pid since
  case $1 in postgres) word=INT ;; nginx) word=QUIT seconds=3 ;; agent) (( seconds += answers_get_s )) ;; esac
  if part_pid "$1"; then
    pid=$REPLY; process_start "$pid"; since=$REPLY
    signal "$word" "$pid"
    wait_until "$seconds" part_gone "$pid" "$since" || { signal KILL "$pid"; wait_until 5 part_gone "$pid" "$since" || true; }
  fi
  rm -f -- "$STATE/run/$1".{pid,started}
}

no_process_left() { [[ -z $(stack_pids) ]]; }

readonly STOP_ORDER=(agent nginx provider control-plane postgres)   # the agent first, lest it starts nginx again

stop_everything() {
  local part pid word
  for part in "${STOP_ORDER[@]}"; do stop_part "$part"; done
  for word in TERM KILL; do
    wait_until 1 no_process_left && return 0
    for pid in $(stack_pids); do signal "$word" "$pid"; done
  done
  wait_until 3 no_process_left
}

undo_up() { # what a failed or interrupted `up` started, it stops; a state directory that it only made goes away
  trap '' INT TERM HUP
  local part
  if (( ${#started[@]} > 0 )); then
    printf '  stopping what was started\n' >&2
    if $from_nothing; then
      stop_everything || true
    else
      case " ${started[*]} " in *' agent '*) started+=(nginx) ;; esac
      for part in "${STOP_ORDER[@]}"; do
        case " ${started[*]} " in *" $part "*) stop_part "$part" ;; esac
      done
    fi
  elif $state_made; then
    rm -rf -- "$STATE"
    [[ -z $state_link_made ]] || rm -f -- "$state_link_made"
  fi
  [[ -z $record_before ]] || write_file 640 "$STATE/stack.env" <<<"$record_before"    # the options that did not work are not kept
}

up_finished=true from_nothing=false restoring='' package_policy=()
at_exit() {
  local code=$?
  trap - EXIT
  [[ -z $background ]] || kill -TERM -- "-$background" 2>/dev/null || true
  restore_package_policy
  $up_finished || { $step_open && printf '\n'; undo_up; }
  [[ -z $restoring ]] || { $step_open && printf '\n'; undo_restore; }
  exit "$code"
}
trap at_exit EXIT
trap 'fail "a step of the launcher itself failed at line $LINENO (${FUNCNAME[0]:-main}): $BASH_COMMAND"' ERR
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# ---- ports -------------------------------------------------------------------------------------------------------

listening() { # PORT, on whatever address
  local hex; printf -v hex %04X "$1"
  grep -qE "^ *[0-9]+: [0-9A-F]+:$hex [0-9A-F]+:[0-9A-F]+ 0A " /proc/net/tcp /proc/net/tcp6 2>/dev/null
}

port_holder() { # PORT: "nginx (pid 12)" in REPLY, or "another process"
  local hex inode link pid; printf -v hex %04X "$1"
  REPLY='another process'
  inode=$(sed -nE "s/^ *[0-9]+: [0-9A-F]+:$hex [0-9A-F]+:[0-9A-F]+ 0A [^ ]+ [^ ]+ [^ ]+ +[0-9]+ +[0-9]+ ([0-9]+) .*/\1/p" \
    /proc/net/tcp /proc/net/tcp6 2>/dev/null | head -n 1)
  [[ -n $inode ]] || return 0
  link=$(find /proc/[0-9]*/fd -maxdepth 1 -lname "socket:\[$inode\]" 2>/dev/null | head -n 1 || true)
  [[ -n $link ]] || return 0
  pid=${link#/proc/} pid=${pid%%/*}
  REPLY="$(cat "/proc/$pid/comm" 2>/dev/null || echo process) (pid $pid)"
}

need_port() { # PORT WHAT OPTION; who was killed a moment ago listens until its last thread has gone, and nobody is seen to hold its port
  # Nor is it in the way when nginx's workers of this state directory hold it, whose master was killed: they are ended.
  local tries
  for (( tries = 0; tries < 30; tries++ )); do
    listening "$1" || return 0
    port_holder "$1"
    [[ $REPLY == 'another process' ]] || break
    sleep 0.1
  done
  [[ ! $REPLY =~ ^nginx\ \(pid\ ([0-9]+)\)$ ]] || ! stack_pids | grep -x "${BASH_REMATCH[1]}" >/dev/null || return 0
  fail "port $1, wanted for $2, is used by $REPLY; free it or choose another with $3 N"
}

chosen_ports=' '
choose_port() { # NAME DEFAULT: the recorded port if it is still free; DEFAULT for the default state; else any free one
  local candidate=${!1}
  if [[ -z $candidate ]] && $state_is_default; then candidate=$2; fi
  until [[ -n $candidate && $chosen_ports != *" $candidate "* ]] && ! listening "$candidate"; do
    candidate=$(( 20000 + SRANDOM % 12000 ))      # below the range that the kernel hands out to clients
  done
  chosen_ports+="$candidate "
  printf -v "$1" %s "$candidate"
}
