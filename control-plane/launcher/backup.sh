# ./evenkeel backup and restore

# A backup is a plain tar of these files of the state directory and no others.
readonly BACKUP_FORMAT=1
readonly BACKUP_NEEDS=(VERSION database.dump stack.env admin-token node-token control-plane/secret.key)
readonly BACKUP_MAY_HOLD=(control-plane/secret.key.previous control-plane/secret.key.next node/snapshot.json)

pg_program() { # PROGRAM ARGS…: one of PostgreSQL's programs, as the role evenkeel; the password goes by file, which goes with it
  local bin program=$1 file=$STATE/run/pgpass.$$ code=0; shift
  pg_binaries; bin=$REPLY
  printf '127.0.0.1:%s:*:evenkeel:%s\n' "$POSTGRES_PORT" "$(as_user cat -- "$STATE/postgres/password")" | write_file 600 "$file"
  ( clean_environment "EVENKEEL_STACK=$STATE" "PGPASSFILE=$file" PATH=/usr/bin:/bin LANG=C.UTF-8
    cd "$STATE" && as_user "$bin/$program" -h 127.0.0.1 -p "$POSTGRES_PORT" -U evenkeel -w -d evenkeel "$@" ) || code=$?
  as_user rm -f -- "$file"
  return "$code"
}

command_backup() { # [FILE]
  local file log name; local -a extra=()
  state_option backup "$@"
  (( ${#rest[@]} <= 1 )) && [[ ${rest[0]:-} != -* ]] || usage_fault 'backup takes one FILE' backup
  file=${rest[0]:-evenkeel-$(date -u +%Y%m%dT%H%M%SZ).tar} log=$STATE/run/backup.log
  [[ ! -e $file ]] || fail "$file is there already; a backup overwrites nothing"
  [[ -w $(dirname -- "$file") ]] || fail "$file cannot be written"
  part_pid postgres || fail "PostgreSQL is not running; start it with ./evenkeel up$with_state"
  lock_state
  step 'dumping the database'
  as_user rm -rf -- "$STATE/run/backup"; as_user mkdir -m 700 -- "$STATE/run/backup"
  pg_program pg_dump --format=custom --no-owner --no-privileges "--file=$STATE/run/backup/database.dump" >"$log" 2>&1 \
    || fail 'the database could not be dumped' "$log"
  printf 'evenkeel-backup %s\nmade %s\nrelease %s\npostgres %s\n' "$BACKUP_FORMAT" "$(date -u +%FT%TZ)" \
    "$(sha256sum <"$STATE/release/stamp" | cut -c1-12)" "$(as_user cat -- "$STATE/postgres/data/PG_VERSION")" \
    | write_file 600 "$STATE/run/backup/VERSION"
  for name in "${BACKUP_MAY_HOLD[@]}"; do ! as_user test -f "$STATE/$name" || extra+=("$name"); done
  # Read by the parts' user, written by the caller: neither needs to enter the other's directories.
  ( umask 077; as_user tar -cf - -C "$STATE/run/backup" "${BACKUP_NEEDS[@]:0:2}" -C "$STATE" "${BACKUP_NEEDS[@]:2}" "${extra[@]}" >"$file.new" ) 2>"$log" \
    && mv -- "$file.new" "$file" || { rm -f -- "$file.new"; fail "$file could not be written" "$log"; }
  as_user rm -rf -- "$STATE/run/backup"
  step_done "$(stat -c %s -- "$file") bytes"
  printf 'The backup is in %s. It holds secrets: keep it where you would keep passwords.\n' "$file"
}

check_backup() { # FILE: a backup of a format that this launcher knows, and nothing else in it
  local name names lines
  [[ -f $1 && -r $1 ]] || fail "the backup $1 does not exist or cannot be read"
  names=$(tar -tf "$1" 2>/dev/null) && lines=$(tar -tvf "$1" 2>/dev/null) || fail "$1 is no backup: it is no tar file, or a broken one"
  while read -r name; do
    [[ " ${BACKUP_NEEDS[*]} ${BACKUP_MAY_HOLD[*]} " == *" $name "* ]] || fail "$1 is no backup: it holds '$name'"
  done <<<"$names"
  ! grep -qv '^-' <<<"$lines" && [[ -z $(sort <<<"$names" | uniq -d) ]] || fail "$1 is no backup: it holds more than plain files"
  for name in "${BACKUP_NEEDS[@]}"; do grep -qxF -- "$name" <<<"$names" || fail "$1 is no backup: it lacks $name"; done
  name=$(tar -xOf "$1" VERSION 2>/dev/null | head -c 4096)
  [[ $name == "evenkeel-backup $BACKUP_FORMAT"$'\n'* ]] \
    || fail "$1 is a backup of another format ($(head -n 1 <<<"$name" | head -c 60 | tr -cd '[:print:]')); this is format $BACKUP_FORMAT"
  REPLY=$(sed -nE 's/^made ([0-9TZ:-]{1,30})$/\1/p' <<<"$name")
}

# A restore builds a whole state directory in restore.new, beside what is there and while that runs. Then it swaps, by renames only:
#   restore.ready   it is built; what it replaces moves to before-restore.new;
#   restore.swap    all of that has moved; what was built moves into its place; then before-restore.new becomes before-restore.
# The name of the directory tells how far it got, and each step may be done again: whoever is interrupted loses nothing, and the next
# command finishes it.
readonly REPLACED=(postgres stack.env admin-token node-token control-plane/secret.key control-plane/secret.key.previous
  control-plane/secret.key.next config.yaml config.json node/nginx.conf node/nginx.conf.last-good node/snapshot.json)

swap_begun() { as_user test -d "$STATE/restore.ready" || as_user test -d "$STATE/restore.swap"; }

move_replaced() { # FROM TO: those that are there, one rename each, and never over what is there
  as_user bash -c 'umask 077; from=$1 to=$2; shift 2
    for name in "$@"; do
      [[ -e $from/$name ]] || continue
      at=$to/$name; mkdir -p -- "${at%/*}" && mv -nT -- "$from/$name" "$at" && [[ ! -e $from/$name ]] && continue
      printf "  %s could not be moved to %s\n" "$from/$name" "$to" >&2; exit 1
    done' move_replaced "$1" "$2" "${REPLACED[@]}"
}

rename() { # FROM TO, in the state directory; never over what is there
  as_user mv -nT -- "$STATE/$1" "$STATE/$2" && ! as_user test -e "$STATE/$1" && return 0
  printf '  %s could not be renamed to %s\n' "$STATE/$1" "$2" >&2; return 1
}

swap() { # finishes a swap that has begun; false where it cannot
  if as_user test -d "$STATE/restore.ready"; then
    as_user mkdir -p -m 700 -- "$STATE/before-restore.new" \
      && move_replaced "$STATE" "$STATE/before-restore.new" && rename restore.ready restore.swap || return 1
  fi
  move_replaced "$STATE/restore.swap" "$STATE" || return 1
  if as_user test -d "$STATE/before-restore.new"; then
    if [[ -z $(as_user find "$STATE/before-restore.new" ! -type d -print -quit) ]]; then       # nothing was there before
      as_user rm -rf -- "$STATE/before-restore.new" || return 1
    else
      ! as_user test -e "$STATE/before-restore" || { as_user rm -rf -- "$STATE/before-restore.old" && rename before-restore before-restore.old; } || return 1
      rename before-restore.new before-restore || return 1
      has_kept=true
    fi
  fi
  as_user rm -rf -- "$STATE/restore.swap" "$STATE/before-restore.old" || true       # what is left of them, the next command removes
}

swap_back() { # the way back from wherever `swap` failed; false where it cannot
  if as_user test -d "$STATE/restore.swap"; then
    as_user test -e "$STATE/before-restore" || ! as_user test -e "$STATE/before-restore.old" || rename before-restore.old before-restore || return 1
    move_replaced "$STATE" "$STATE/restore.swap" && rename restore.swap restore.ready || return 1
  fi
  ! as_user test -d "$STATE/before-restore.new" || move_replaced "$STATE/before-restore.new" "$STATE" || return 1
  as_user rm -rf -- "$STATE/before-restore.new"
  # A backup goes; what an undo was to put back stays where it was.
  if as_user test -e "$STATE/restore.ready/VERSION"; then rename restore.ready restore.new; else rename restore.ready before-restore; fi
}

swap_or_back() { # a whole state is in place afterwards, the new one or, and then it fails, that of before
  swap && return 0
  swap_back && fail 'the data could not be moved (see above)'
  restoring=''
  fail "the data could neither be moved nor moved back (see above). Nothing is lost: what was there before is in $state_shown/before-restore.new or still in its place, what was to replace it is in $(compgen -G "$STATE/restore.[rs]*") or in its place already. Remove the cause, then ./evenkeel up$with_state finishes it"
}

end_restore_processes() { # of a restore that was killed: its PostgreSQL goes on
  local STATE=$STATE/restore.new
  no_process_left || stop_everything
}

say_kept() {
  ! $has_kept || say "what it replaced, with its keys and tokens, is in $state_shown/before-restore until the next restore that succeeds;" \
      "./evenkeel restore --undo$with_state puts it back"
}

settle_restore() { # finishes or clears away what an interrupted restore has left
  end_restore_processes || fail 'the processes of an interrupted restore would not end'
  as_user rm -rf -- "$STATE/restore.new"
  swap_begun || { as_user rm -rf -- "$STATE/before-restore.old"; return 0; }
  stop_everything || fail 'not all processes would end'
  restoring=$STATE
  trap '' INT TERM HUP
  swap_or_back
  trap 'exit 130' INT; trap 'exit 143' TERM; trap 'exit 129' HUP
  restoring=''
  say 'finished a restore that had been interrupted'
  say_kept
}

undo_restore() { # of a command that fails, where nothing has been moved or all of it is back; restoring tells the state directory
  trap '' INT TERM HUP
  STATE=$restoring
  end_restore_processes || true
  if as_user test -d "$STATE/restore.new/run"; then      # it was being built: its logs stay, for the last words may point at them
    as_user find "$STATE/restore.new" -depth \( ! -type d ! -name '*.log' -o -type d -empty \) -delete || true
  else
    as_user rm -rf -- "$STATE/restore.new" || true
  fi
  printf '  nothing was replaced: the data in %s is what it was%s\n' "$state_shown" \
    "$(! $restore_stopped || echo "; Evenkeel was stopped, ./evenkeel up$with_state brings it up again")" >&2
}
restore_stopped=false has_kept=false

build_restored() { # FILE MADE: a whole state directory in restore.new
  local log=$STATE/run/restore.log name state_is_default=false
  step "unpacking the backup of $2"
  restoring=$STATE STATE+=/restore.new
  as_user mkdir -p -m 700 -- "$STATE/run"
  # shellcheck disable=SC2024  # read by the caller, written by the parts' user
  as_user bash -c 'umask 077; tar -xf - -C "$1" --no-same-owner --no-same-permissions' restore "$STATE" <"$1" 2>"$log" \
    || fail "$1 could not be unpacked" "$log"
  as_user chmod 640 -- "$STATE/stack.env"
  step_done
  for name in "${RECORDED[@]}"; do printf -v "$name" %s ''; done
  read_record
  name=$POSTGRES_PORT POSTGRES_PORT=''           # a port of its own: what is to be replaced may run still
  ensure_postgres
  step 'restoring the database'
  pg_program pg_restore --no-owner --no-privileges --exit-on-error "$STATE/database.dump" >"$log" 2>&1 8<&- \
    || fail 'the database could not be restored' "$log"
  stop_part postgres
  POSTGRES_PORT=$name; write_record
  as_user rm -rf -- "$STATE/run" "$STATE/database.dump"
  as_user sync -f -- "$STATE"      # all of it is on the disk before anything makes way for it
  STATE=$restoring
  step_done
}

command_restore() { # FILE [--force] | --undo [--force]
  local file='' force=false undo=false option made='' taken
  state_option restore "$@"
  for option in "${rest[@]}"; do
    case $option in
      --force) force=true ;;
      --undo) undo=true ;;
      -*) usage_fault "restore does not know '$option'" restore ;;
      *) [[ -z $file ]] || usage_fault 'restore takes one FILE' restore; file=$option ;;
    esac
  done
  if $undo; then
    [[ -z $file ]] || usage_fault 'restore takes one FILE or --undo' restore
  else
    [[ -n $file ]] || usage_fault 'restore takes one FILE' restore
    check_backup "$file"; made=$REPLY
  fi
  if [[ -d $STATE ]]; then
    lock_state
    settle_restore
    if ! $force && [[ -n $(stack_pids) ]]; then fail "Evenkeel is running in $state_shown; --force stops it and puts $($undo && echo 'what was there before' || echo 'the backup') in the place of its data"; fi
    if ! $force && ! $undo && as_user test -e "$STATE/postgres/data"; then fail "$state_shown holds the data of a stack; --force puts the backup in its place"; fi
  fi
  if $undo; then
    as_user test -d "$STATE/before-restore" || fail "there is nothing to be put back: no restore has left a $state_shown/before-restore"
    restoring=$STATE
  else
    ensure_packages
    use_run_user create
    make_state
    [[ -e /proc/self/fd/8 ]] || lock_state
    build_restored "$file" "$made"
  fi
  if [[ -n $(stack_pids) ]]; then
    restore_stopped=true
    step 'stopping Evenkeel'; stop_everything || fail 'not all processes would end'; step_done
  fi
  trap '' INT TERM HUP
  taken=restore.new; ! $undo || taken='before-restore'
  rename "$taken" restore.ready || fail "$state_shown/$taken could not be renamed"
  swap_or_back
  restoring=''
  if $undo; then printf 'Put back what was in %s before; ./evenkeel up%s brings it up.\n' "$state_shown" "$with_state"
  else printf 'Restored the backup of %s into %s; ./evenkeel up%s brings it up.\n' "$made" "$state_shown" "$with_state"; fi
  say_kept
}
