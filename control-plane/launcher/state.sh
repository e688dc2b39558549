# The state directory, who owns it, and what it remembers.

# ---- who runs the parts ------------------------------------------------------------------------------------------

AS_USER=()          # prefix of every command that runs as RUN_USER; empty when the caller is nobody special

as_user() { "${AS_USER[@]}" "$@"; }

use_run_user() { # [create]: from here on as_user drops root's rights
  (( EUID == 0 )) || return 0
  if ! id -u "$RUN_USER" >/dev/null 2>&1; then
    [[ ${1:-} == create ]] || return 0
    useradd --system --user-group --no-create-home --home-dir "$RELOCATED" --shell /usr/sbin/nologin "$RUN_USER" \
      || fail "could not create the system user $RUN_USER that the parts run as"
    say "created the system user $RUN_USER: nothing of Evenkeel runs as root"
  fi
  AS_USER=(setpriv "--reuid=$RUN_USER" "--regid=$RUN_USER" --init-groups --no-new-privs)
}

# ---- the state directory -----------------------------------------------------------------------------------------

STATE='' state_shown='' with_state='' state_is_default=false state_made=false state_link_made=''

locate_state() { # [DIR]: fills STATE (real path), state_shown (as the caller knows it) and with_state (for hints); creates nothing
  local wanted=${1:-$ROOT/.evenkeel}
  [[ $wanted == "$ROOT/.evenkeel" ]] && state_is_default=true
  [[ $wanted == /* ]] || wanted=$PWD/$wanted
  STATE=$(readlink -m -- "$wanted"); state_shown=$(realpath -sm -- "$wanted")
  [[ -z ${1:-} ]] || printf -v with_state ' --state %q' "$state_shown"
  [[ $STATE =~ ^/[[:alnum:]\ ._/+@~,:=-]+$ ]] \
    || fail "the state directory '$wanted' has characters that configuration files cannot hold; choose a plain one with --state DIR"
  case $STATE in /|/etc|/usr|/var|/home|/root|/tmp|/bin|/lib|/opt|/proc|/sys|/dev|"$ROOT"|"${HOME:-/}")
    fail "'$wanted' cannot be a state directory; choose one of its own with --state DIR" ;;
  esac
  if [[ -e $STATE && ! -d $STATE ]]; then fail "the state directory $state_shown is not a directory"; fi
  if [[ -d $STATE && ! -e $STATE/stack.env && -r $STATE && -n $(ls -A -- "$STATE") && ! -e $STATE/run ]]; then
    fail "$state_shown is not empty and is no Evenkeel state directory; choose another with --state DIR"
  fi
  if [[ -d $STATE && $EUID -ne 0 && ! -O $STATE ]]; then
    fail "the state directory $state_shown belongs to user $(stat -c %U -- "$STATE"); run this as that user or with sudo"
  fi
}

nearest_existing() { REPLY=$1; until [[ -e $REPLY ]]; do REPLY=$(dirname -- "$REPLY"); done; }

make_state() { # creates STATE for the user the parts run as, elsewhere and linked when that user cannot get there
  if [[ ! -d $STATE ]]; then
    nearest_existing "$STATE"
    [[ -w $REPLY ]] || fail "the state directory $state_shown cannot be created: $REPLY is not writable"
    if (( EUID == 0 )) && ! as_user test -x "$REPLY/."; then
      local digest; digest=$(printf %s "$STATE" | sha256sum | cut -c1-16)
      state_link_made=$STATE STATE=$RELOCATED/$digest
      install -d -m 755 "$RELOCATED" "$(dirname -- "$state_link_made")"
      # A link that lost its target (a purge from elsewhere) is replaced, nothing else ever is.
      ln -sfn -- "$STATE" "$state_link_made"
      say "user $RUN_USER cannot enter $REPLY: the state lives in $STATE, $state_shown is a link to it"
    fi
    if [[ ! -d $STATE ]]; then
      mkdir -p -- "$(dirname -- "$STATE")" && mkdir -m 700 -- "$STATE" || fail "the state directory $state_shown cannot be created"
      state_made=true
      (( EUID != 0 )) || chown "$RUN_USER:$RUN_USER" -- "$STATE"
    fi
  fi
  if (( EUID == 0 )) && [[ -d $STATE && $(stat -c %U -- "$STATE") != "$RUN_USER" ]]; then
    [[ -z $(ls -A -- "$STATE") ]] || fail "the state directory $state_shown belongs to user $(stat -c %U -- "$STATE"), not to $RUN_USER; run this as that user"
    chown "$RUN_USER:$RUN_USER" -- "$STATE"
  fi
  as_user test -w "$STATE/." || fail "the state directory $state_shown is not writable for user $(as_user id -un)"
  as_user mkdir -p -- "$STATE"/{run,control-plane,node/logs,provider}
}

lock_state() { # one launcher at a time per state directory; the parts do not inherit fd 8
  exec 8<"$STATE"
  flock -n 8 || fail "another ./evenkeel is at work on $state_shown; wait for it"
}

write_file() { # MODE PATH: stdin, complete or not at all
  as_user bash -c 'umask 077; cat >"$2.new" && chmod "$1" "$2.new" && mv -f -- "$2.new" "$2"' write_file "$1" "$2"
}

random_secret() { head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=\n'; printf '\n'; }

ensure_secret() { [[ -s $STATE/$1 ]] || random_secret | write_file 600 "$STATE/$1"; }

record_before=''

read_record() {
  [[ -r $STATE/stack.env ]] || return 0
  local line known
  record_before=$(cat "$STATE/stack.env")
  while read -r line; do
    for known in "${RECORDED[@]}"; do
      [[ ${line%%=*} != "$known" ]] || printf -v "$known" %s "${line#*=}"
    done
  done <"$STATE/stack.env"
  read_live_listen
}

read_live_listen() { # EDGE_LISTEN of the text that runs, or is to be started: the newest configuration's may be refused
  local line; line=$(grep -m 1 '^ *listen ' "$STATE/node/nginx.conf" 2>/dev/null) || return 0
  read -r _ line _ <<<"${line%%;*}"
  [[ $line == *:* ]] || line=127.0.0.1:$line
  EDGE_LISTEN=$line
}

write_record() {
  local name
  { printf '# Written by ./evenkeel up; one NAME=value a line.\n'
    for name in "${RECORDED[@]}"; do printf '%s=%s\n' "$name" "${!name}"; done
  } | write_file 640 "$STATE/stack.env"
}
