# Words on the terminal: steps with a clock, the end of a command in one sentence, waiting.

on_terminal=false; [[ -t 1 ]] && on_terminal=true
step_open=false step_name='' step_began_ms=0
REPLY=''            # functions that compute one value leave it here: no subshell, so `fail` ends the launcher

now_ms() { local _; read -r REPLY _ </proc/uptime; REPLY=$(( 10#${REPLY/./} * 10 )); }      # only grows, whoever sets the clock

tenths_since() { # START_MS: seconds with one decimal
  now_ms
  local tenths=$(( (REPLY - $1 + 50) / 100 ))
  REPLY=$(( tenths / 10 )).$(( tenths % 10 ))
}

step() { now_ms; step_began_ms=$REPLY step_name=$1 step_open=true; printf '  %-58s' "$step_name …"; }

tick() { # while waiting: seconds that run, on a terminal only
  $on_terminal && $step_open || return 0
  tenths_since "$step_began_ms"; printf '\r  %-58s%6s s' "$step_name …" "$REPLY"
}

step_done() { # [WORD]
  tenths_since "$step_began_ms"
  $on_terminal && printf '\r'
  $on_terminal && printf '  %-58s' "$step_name …"
  printf '%6s s%s\n' "$REPLY" "${1:+  ($1)}"
  step_open=false
}

say() { printf '  %s\n' "$*"; }

fail() { # SENTENCE [LOG]: the end of this command; the last lines of LOG tell the details
  $step_open && printf '\n'
  step_open=false
  printf 'evenkeel: %s\n' "$1" >&2
  if [[ -n ${2:-} && -s ${2:-} ]]; then
    tail -n 25 -- "$2" | sed 's/^/    | /' >&2
    printf '    the whole log: %s\n' "$2" >&2
  fi
  exit 1
}

usage_fault() { printf 'evenkeel: %s (see ./evenkeel %s--help)\n' "$1" "${2:+$2 }" >&2; exit 2; }

wait_until() { # SECONDS COMMAND…: true as soon as COMMAND is
  local deadline_ms; now_ms; deadline_ms=$(( REPLY + $1 * 1000 )); shift
  until "$@"; do
    now_ms; (( REPLY < deadline_ms )) || return 1
    tick; sleep 0.05
  done
}

in_background() { # LOG COMMAND…: run it with a running clock; its exit code
  local log=$1 code=0; shift
  set -m      # a process group of its own, so that Ctrl-C here ends all of it
  "$@" >"$log" 2>&1 </dev/null 8<&- 9<&- &
  background=$!
  set +m
  while kill -0 "$background" 2>/dev/null; do tick; sleep 0.1; done
  wait "$background" || code=$?
  background=''
  return "$code"
}
background=''
