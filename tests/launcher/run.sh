#!/usr/bin/env bash
# What ./evenkeel promises to whoever types it: each promise is one line, `ok` or `not ok`.
#
# Uses the release in EVENKEEL_RELEASE (./evenkeel test sets it; without, the first `up` builds). State directories
# lie in one temporary directory, ports are free ones; whatever happens, the stacks started here are taken down.
# Arguments choose groups: tests/launcher/run.sh words stack …
set -uo pipefail
export LC_ALL=C.UTF-8

root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.." && pwd)
scratch=$(mktemp -d)
chmod 755 "$scratch"
# The checkout may belong to another user than the one who tests.
export GIT_CONFIG_GLOBAL=$scratch/gitconfig
printf '[safe]\n\tdirectory = *\n' >"$GIT_CONFIG_GLOBAL"
evenkeel=$root/evenkeel
groups=(words refusals stack revival backup restore neighbours configuration interruption clone)
bad=0

take_down() {
  local state
  [[ -z ${holder:-} ]] || kill "$holder" 2>/dev/null
  for state in "$scratch"/*/ "$scratch"/*/.evenkeel/; do
    [[ ! -d ${state}run ]] || "$evenkeel" down --purge --yes --state "${state%/}" >/dev/null 2>&1
  done
  rm -rf -- "$scratch"
}
trap take_down EXIT
trap 'exit 130' INT TERM

ok() { printf 'ok - %s\n' "$1"; }

not_ok() { # PROMISE: with the last output as its evidence
  bad=$(( bad + 1 ))
  printf 'not ok - %s\n' "$1"
  printf '# exit code %s\n' "$code"
  tail -n 40 <<<"$output" | while IFS= read -r REPLY; do printf '# %s\n' "$REPLY"; done
}

promise() { # PROMISE COMMAND…: kept if COMMAND succeeds
  local text=$1; shift
  if "$@"; then ok "$text"; else not_ok "$text"; fi
}

run() { output=$("$@" 2>&1 </dev/null); code=$?; }      # leaves output and code behind
output='' code=0

says() { local word; for word in "$@"; do [[ $output == *"$word"* ]] || { output+=$'\n'"(missing: $word)"; return 1; }; done; }
failed_saying() { (( code != 0 )) && says "$@"; }
worked_saying() { (( code == 0 )) && says "$@"; }
one_sentence() { (( code != 0 )) && [[ $(grep -c '^evenkeel: ' <<<"$output") == 1 ]]; }

free_port() { # one that nobody listens on, below the range that clients get
  local port hex
  while :; do
    port=$(( 15000 + SRANDOM % 5000 )); printf -v hex %04X "$port"
    grep -qE "^ *[0-9]+: [0-9A-F]+:$hex " /proc/net/tcp /proc/net/tcp6 2>/dev/null || { REPLY=$port; return; }
  done
}

processes_of() { # STATE: pids of everything that belongs to it, by mark or by working directory
  local real; real=$(readlink -m -- "$1")
  { grep -lzxF -- "EVENKEEL_STACK=$real" /proc/[0-9]*/environ; find /proc/[0-9]*/cwd -maxdepth 0 -lname "$real/*"; } 2>/dev/null \
    | cut -d/ -f3 | sort -nu
}
no_process_of() { [[ -z $(processes_of "$1") ]]; }
pids_of() { cat "$1"/run/*.pid "$1/node/run/nginx.pid" 2>/dev/null; }
revision_of() { "$evenkeel" status --state "$1" 2>/dev/null | sed -nE 's/^revision ([0-9]+),.*/\1/p'; }

within() { # SECONDS COMMAND…
  local end=$(( SECONDS + $1 )); shift
  until "$@"; do (( SECONDS < end )) || return 1; sleep 0.1; done
}

printed_curl_answers() { # runs the line that `up` printed, as a person would paste it
  local line answer
  line=$(grep -E '^ +curl ' <<<"$output" | head -n 1)
  [[ -n $line ]] || return 1
  answer=$(bash -c "$line" 2>&1)
  [[ $answer == *'"choices"'* && $answer == *'"content"'* ]] || { output+=$'\n'"$line"$'\n'"$answer"; return 1; }
}

printed_lines_break_and_mend() {
  local word
  for word in down up; do bash -c "$(sed -nE "s,^ +(curl -X POST .*/instances/b/$word)\$,\\1,p" <<<"$output") -fsS --noproxy '*' -m 10 -o /dev/null" || return 1; done
}

stack() { # NAME [UP OPTION…]: `up` on free ports; state and ports in state, port, admin_port
  state=$scratch/$1; shift
  free_port; port=$REPLY; free_port; admin_port=$REPLY
  run "$evenkeel" up --state "$state" --port "$port" --admin-port "$admin_port" "$@"
}
state='' port='' admin_port=''

listening() { local hex; printf -v hex %04X "$1"; grep -qE "^ *[0-9]+: [0-9A-F]+:$hex [0-9A-F]+:[0-9A-F]+ 0A " /proc/net/tcp; }

listen_on() { # PORT: a process, in holder, that has it until it is killed
  perl -MIO::Socket::INET -e 'my $s = IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1:$ARGV[0]") or die; sleep 600' "$1" &
  holder=$!
  within 10 listening "$1"
}
holder=''

# ---- the promises ------------------------------------------------------------------------------------------------

group_words() {
  local command
  run "$evenkeel"; promise 'without a command it tells what there is' worked_saying up down status logs test apply
  run "$evenkeel" help; promise 'help does the same' worked_saying up down status logs test apply
  for command in up down status logs test apply; do
    run "$evenkeel" "$command" --help
    promise "$command --help explains $command" worked_saying "./evenkeel $command"
  done
  run "$evenkeel" frobnicate; promise 'an unknown command is refused' failed_saying frobnicate
  run "$evenkeel" up --frobnicate; promise 'an unknown option is refused' failed_saying --frobnicate
  run "$evenkeel" up --port 70000; promise 'a port that cannot be is refused' failed_saying 70000
  run "$evenkeel" status --state "$scratch/none"; promise 'status of nothing is not 0' failed_saying 'not running'
  run "$evenkeel" down --state "$scratch/none"; promise 'down of nothing is fine' worked_saying 'not running'
  promise 'and none of this leaves a state directory' test ! -e "$scratch/none"
}

left_nothing() { [[ ! -e $state ]] && no_process_of "$state"; }

group_refusals() {
  local programs=$scratch/programs file
  free_port; port=$REPLY; free_port; admin_port=$REPLY; state=$scratch/refused
  listen_on "$port"
  run "$evenkeel" up --state "$state" --port "$port" --admin-port "$admin_port"
  promise 'a used port is named, and who has it' failed_saying "port $port" "perl (pid"
  promise 'in one sentence' one_sentence
  promise 'and nothing is left half-started' left_nothing
  run "$evenkeel" up --state "$state" --port "$admin_port" --admin-port "$port"
  promise 'so is a used admin port' failed_saying "port $port" --admin-port
  kill "$holder"; wait "$holder" 2>/dev/null; holder=''

  mkdir "$programs"; ln -s /usr/bin/* "$programs/"; rm -f "$programs/dotnet"
  run env PATH="$programs" "$evenkeel" up --state "$state" --port "$port" --admin-port "$admin_port"
  promise 'a missing .NET SDK is named, and where to get it' failed_saying '.NET SDK' missing https://
  promise 'in one sentence' one_sentence
  promise 'and nothing is left half-started' left_nothing
  # A checkout that was never built needs the SDK, not only the runtime.
  git clone -q --no-hardlinks "$root" "$scratch/old-sdk"
  cat >"$programs/dotnet" <<'END'
#!/bin/sh
[ "$1" != --list-sdks ] || echo "8.0.100 [/usr/share/dotnet/sdk]"
END
  chmod +x "$programs/dotnet"
  run env -u EVENKEEL_RELEASE PATH="$programs" "$scratch/old-sdk/evenkeel" up --state "$state" --port "$port" --admin-port "$admin_port"
  promise 'an old .NET SDK is told, with its version' failed_saying '.NET SDK' 8.0.100
  promise 'in one sentence' one_sentence
  promise 'and nothing is left half-started' left_nothing
  rm -rf "$programs" "$scratch/old-sdk"

  file=$scratch/broken.yaml
  cat >"$file" <<'END'
gateway: {listen: 127.0.0.1:8080}
instances:
  - {name: one, base_url: "ftp://nowhere", weight: -3}
pools:
  - {name: chat, models: [m], tiers: [{name: primary, instances: [one, two]}]}
surprise: true
END
  run "$evenkeel" up --state "$state" --port "$port" --admin-port "$admin_port" --config "$file"
  promise 'a broken configuration shows every fault with its path' \
    failed_saying 'instances[0].base_url' 'instances[0].weight' 'pools[0].tiers[0].instances[1]' surprise
  promise 'and nothing is left half-started' left_nothing
  run "$evenkeel" up --state "$state" --config "$scratch/absent.yaml"
  promise 'a configuration that is not there is named' failed_saying absent.yaml
  promise 'in one sentence' one_sentence

  printf 'mine\n' >"$scratch/a-file"
  run "$evenkeel" up --state "$scratch/a-file"; promise 'a file is no state directory' failed_saying a-file
  mkdir "$scratch/others"; printf 'mine\n' >"$scratch/others/letter"
  run "$evenkeel" up --state "$scratch/others"; promise "somebody's own directory is no state directory" failed_saying others
  run "$evenkeel" down --purge --yes --state "$scratch/others"
  promise 'and is never purged' test -e "$scratch/others/letter"
  run "$evenkeel" up --state "$scratch/a;b"; promise 'nor is a path that configuration files cannot hold' failed_saying 'a;b'
  run "$evenkeel" up --state /etc; promise 'nor is /etc' failed_saying /etc
  run env EVENKEEL_RELEASE="$scratch/others" "$evenkeel" up --state "$state"; promise 'a release that is none is refused' failed_saying EVENKEEL_RELEASE
  rm -rf "$scratch/others" "$scratch/a-file"
}

runs_as_nobody_special() {
  local pid uid
  for pid in $(processes_of "$state"); do
    uid=$(sed -nE 's/^Uid:\s+([0-9]+).*/\1/p' "/proc/$pid/status" 2>/dev/null)
    [[ $uid != 0 ]] || { output+=$'\n'"root runs pid $pid: $(tr '\0' ' ' <"/proc/$pid/cmdline")"; return 1; }
  done
}

secrets_are_private() { [[ $(stat -Lc %a "$state/admin-token" "$state/node-token" "$state/postgres/password" "$state/postgres/reader-password" "$state/control-plane/secret.key" | sort -u) == 600 ]]; }

token_works() {
  curl -sf --noproxy '*' -m 5 -H "authorization: Bearer $(cat "$state/admin-token")" "http://127.0.0.1:$admin_port/api/v1/status" | grep -q revision \
    && ! curl -sf --noproxy '*' -m 5 "http://127.0.0.1:$admin_port/api/v1/status" >/dev/null
}

same_pids() { [[ $(pids_of "$state") == "$before" ]] || { output+=$'\n'"$before"$'\n--\n'"$(pids_of "$state")"; return 1; }; }

stranger_lives() { kill -0 "$stranger" 2>/dev/null; }

as_reader() { # SQL: as somebody who has the readers' password reads the launcher's database; its words in said
  said=$(PGPASSWORD=$(cat "$state/postgres/reader-password") timeout 30 psql -X -w -h 127.0.0.1 -p "$(sed -n 's/^POSTGRES_PORT=//p' "$state/stack.env")" -U evenkeel_reader -c "$1" evenkeel 2>&1)
}

reads_reports_only() {
  local sql said
  as_reader 'select count(*) from report.incidents, report.cost_daily, report.audit' || { output+=$'\n'"$said"; return 1; }
  for sql in 'select from evenkeel.secret' 'select from evenkeel.revision' 'delete from report.audit' 'create table report.mine ()' 'create role mine'; do
    if as_reader "$sql" || [[ $said != *'permission denied'* ]]; then output+=$'\n'"$sql: $said"; return 1; fi
  done
}

slow_answer() { # asks in the background for one that takes 7 s
  local control name; control=http://127.0.0.1:$(sed -n 's/^PROVIDER_CONTROL_PORT=//p' "$state/stack.env")
  for name in a b c lite; do curl -sf --noproxy '*' -m 5 -o /dev/null -X PATCH -d '{"latency_ms":7000}' "$control/instances/$name"; done
  curl -s --noproxy '*' -m 30 -o "$scratch/answer" -d '{"model":"deepseek-chat","messages":[{"role":"user","content":"Hello!"}]}' \
    -H 'content-type: application/json' -H "x-request-id: $slow_id" "http://127.0.0.1:$port/v1/chat/completions" &
  asker=$!
  within 20 reads_of_it "$control"
}
reads_of_it() { curl -sf --noproxy '*' -m 5 "$1/ledger" | grep -q "$slow_id"; }
slow_id=an-answer-of-seven-seconds
asker=''
answered() { wait "$asker"; grep -qs '"choices"' "$scratch/answer"; }

group_stack() {
  local before stranger revision
  stack 'with space'
  promise 'up says where everything is' worked_saying "http://127.0.0.1:$port/v1" "http://127.0.0.1:$admin_port/" "$state/admin-token" 'curl '
  promise 'the printed curl line gives an answer' printed_curl_answers
  promise 'the printed lines break an instance and mend it' printed_lines_break_and_mend
  promise 'the admin token opens the API, and nothing else does' token_works
  promise 'secrets are readable for nobody else' secrets_are_private
  (( EUID != 0 )) || promise 'started by root, nothing runs as root' runs_as_nobody_special
  promise 'there is a login that reads the reports, and nothing else' reads_reports_only
  run "$evenkeel" status --state "$state"
  promise 'status shows every part and the revision' worked_saying postgres control-plane agent nginx provider 'revision 1, acknowledged'
  run "$evenkeel" logs --state "$state" control-plane; promise 'logs shows what a part says' worked_saying .
  before=$(pids_of "$state")
  run "$evenkeel" up --state "$state"
  promise 'a second up is a no-op that says so' worked_saying 'already up: nothing to do'
  promise 'and touches no process' same_pids
  run "$evenkeel" up --state "$state" --port 9
  promise 'a second up with another port is refused' failed_saying "$port" "./evenkeel down --state $(printf %q "$state") first"
  run env -i PATH="$PATH" HOME="${HOME:-/}" "$evenkeel" status --state "$state"
  promise 'status needs nothing from the environment' worked_saying 'acknowledged'

  sleep 600 & stranger=$!
  slow_answer
  run "$evenkeel" down --state "$state" --wait 30
  promise 'down says so' worked_saying 'is down'
  promise 'an answer of 7 s is not cut within the time that down gives it' answered
  promise 'down leaves no process' no_process_of "$state"
  run "$evenkeel" down --state "$state"; promise 'a second down is fine' worked_saying 'not running'
  (umask 077; printf '%s\n' "$stranger" >"$state/run/agent.pid"; printf 'x 1\n' >"$state/run/agent.started")
  run "$evenkeel" down --state "$state"
  promise 'a recycled pid is nobody to be stopped' stranger_lives
  kill "$stranger"

  revision=1
  rm -f "$state/postgres/reader-password"
  run "$evenkeel" up --state "$state"
  promise 'up after down is the same stack again' worked_saying "http://127.0.0.1:$port/v1"
  promise 'with the same configuration' test "$(revision_of "$state")" = "$revision"
  promise 'and a cluster without the login has got it' reads_reports_only
  run "$evenkeel" down --purge --state "$state"
  promise 'purge asks, and without anybody to ask it refuses' failed_saying --yes
  run "$evenkeel" down --purge --yes --state "$state"
  promise 'purge --yes leaves no process and no file' left_nothing
}

killed() { # PART
  local pid; pid=$(cat "$state/run/$1.pid" 2>/dev/null || cat "$state/node/run/nginx.pid")
  kill -KILL "$pid"
  within 5 eval "! kill -0 $pid 2>/dev/null"
}

deaf_curl() { # a PATH in programs whose curl gets nothing from the gateway
  programs=$scratch/deaf
  mkdir -p "$programs"
  printf '#!/bin/bash\n[[ " $* " != */v1/models" "* && " $* " != */v1/chat/completions" "* ]] || exit 7\nexec %q "$@"\n' "$(type -P curl)" >"$programs/curl"
  chmod 755 "$programs/curl"
}

serves() { [[ $(curl -s --noproxy '*' -m 5 -o /dev/null -w '%{http_code}' "http://127.0.0.1:$port/v1/models") =~ ^(200|401)$ ]]; }

group_revival() {
  local part
  stack revival
  promise 'a stack to kill parts of comes up' worked_saying 'is up'
  for part in provider control-plane agent postgres; do
    killed "$part"
    run "$evenkeel" status --state "$state"
    promise "status is not 0 when $part has died, and says so" failed_saying "$part" 'not running'
    run "$evenkeel" up --state "$state"
    promise "up starts $part again, and says so" worked_saying "not running: $part"
    run "$evenkeel" status --state "$state"
    promise "and then all is well" worked_saying 'acknowledged by all workers'
  done

  # shellcheck disable=SC2046  # pids
  kill -KILL $(pids_of "$state")
  promise 'when all was killed, nginx with it, its workers still hold the port' serves
  run "$evenkeel" up --state "$state"
  promise 'and up brings all of it up again' worked_saying 'ending what a killed run has left' 'is up'
  run "$evenkeel" status --state "$state"
  promise 'with workers that have a master' worked_saying 'acknowledged by all workers'

  "$evenkeel" client --state "$state" add web >/dev/null
  "$evenkeel" down --state "$state" >/dev/null
  run "$evenkeel" up --state "$state"
  promise 'a demo whose callers need a key now comes up again' worked_saying 'is up'
  "$evenkeel" down --state "$state" >/dev/null
  deaf_curl
  run env PATH="$programs:$PATH" "$evenkeel" up --state "$state"
  promise 'that the gateway does not answer is a note' worked_saying 'note: the gateway does not answer' "logs nginx --state $state"
  promise 'and no reason to stop what ran before' serves
  run "$evenkeel" down --purge --yes --state "$state"
  promise 'and down still leaves no process' left_nothing
}

config_of() { curl -sf --noproxy '*' -m 10 -H "authorization: Bearer $(cat "$state/admin-token")" "http://127.0.0.1:$admin_port/api/v1/config"; }
node_knows() { # TEXT: the snapshot that the node runs has it, which is where a provider's key must arrive in clear
  grep -qs -- "$1" "$state/node/snapshot.json"
}

is_in_tar() { tar -tf "$2" | grep -xF -- "$1" >/dev/null; }
group_backup() {
  local file=$scratch/backups/all.tar config revision
  mkdir -m 700 "$scratch/backups"
  stack saved
  promise 'a stack to be saved comes up' worked_saying 'is up'
  curl -sf --noproxy '*' -m 10 -o /dev/null -X PATCH -H "authorization: Bearer $(cat "$state/admin-token")" -H 'content-type: application/json' \
    -d '{"api_key":"sk-to-be-saved","weight":41}' "http://127.0.0.1:$admin_port/api/v1/instances/a"
  promise 'a key reaches the node' within 15 node_knows sk-to-be-saved
  revision=$(revision_of "$state") config=$(config_of)
  run "$evenkeel" rotate-secret-key --state "$state" --prepare
  promise 'a next secret key is prepared' worked_saying secret.key.next
  run "$evenkeel" backup --state "$state" "$file"
  promise 'backup writes one file while all runs' worked_saying "$file"
  promise 'with the next secret key: it may be that of the data already' is_in_tar control-plane/secret.key.next "$file"
  promise 'that only its owner can read' test "$(stat -c %a "$file")" = 600
  promise 'and that shows no stored key in clear but in the snapshot of the node' test "$(tar -xOf "$file" database.dump | grep -c sk-to-be-saved)" = 0
  run "$evenkeel" backup --state "$state" "$file"; promise 'a backup overwrites nothing' failed_saying 'is there already'
  run "$evenkeel" restore --state "$state" "$file"; promise 'restore does not overwrite a running stack' failed_saying --force
  promise 'which goes on' test "$(revision_of "$state")" = "$revision"
  printf 'x\n' >"$scratch/backups/no.tar"
  run "$evenkeel" restore --state "$state" --force "$scratch/backups/no.tar"; promise 'nor with what is no backup' failed_saying 'is no backup'
  ln -s /etc/passwd "$scratch/backups/VERSION"; tar -cf "$scratch/backups/link.tar" -C "$scratch/backups" VERSION
  run "$evenkeel" restore --state "$state" --force "$scratch/backups/link.tar"; promise 'nor with links' failed_saying 'is no backup'

  run "$evenkeel" down --purge --yes --state "$state"
  promise 'all is gone' left_nothing
  run "$evenkeel" restore --state "$state" "$file"
  promise 'restore puts the backup in place' worked_saying './evenkeel up'
  promise 'and leaves nothing running' no_process_of "$state"
  promise 'secrets are readable for nobody else' secrets_are_private
  run "$evenkeel" up --state "$state"
  promise 'up brings it up' worked_saying 'is up'
  promise 'with the revision it had' test "$(revision_of "$state")" = "$revision"
  promise 'and with a login that reads the reports' reads_reports_only
  promise 'and the same configuration' test "$(config_of)" = "$config"
  promise 'the gateway answers' printed_curl_answers
  rm -f "$state/node/snapshot.json"
  curl -sf --noproxy '*' -m 10 -o /dev/null -X PATCH -H "authorization: Bearer $(cat "$state/admin-token")" -H 'content-type: application/json' \
    -d '{"weight":42}' "http://127.0.0.1:$admin_port/api/v1/instances/a"
  promise "the stored provider keys can still be read: the next snapshot has them" within 15 node_knows sk-to-be-saved
  run "$evenkeel" restore --state "$state" --force "$file"
  promise 'with --force a running stack is replaced' worked_saying './evenkeel up'
  run "$evenkeel" up --state "$state"
  promise 'and is what it was' test "$(revision_of "$state")" = "$revision"
  run "$evenkeel" down --purge --yes --state "$state"
  promise 'and down still leaves no process' left_nothing
}

what_counts() { # DIRECTORY: what a restore replaces and nobody can make again, as digests; which cluster it is shows by its password
  ( cd "$1" && sha256sum -- stack.env admin-token node-token control-plane/secret.key control-plane/secret.key.previous postgres/password 2>&1 )
}
unchanged() { [[ $(what_counts "$state") == "$before" ]] || { output+=$'\n'"$before"$'\n--\n'"$(what_counts "$state")"; return 1; }; }
kept() { [[ $(what_counts "$state/before-restore") == "$before" ]] || { output+=$'\n'"$before"$'\n--\n'"$(what_counts "$state/before-restore")"; return 1; }; }
nothing_lost() { # every file of before is in place or beside, as it was
  local digest found
  found=$(find "$state/" \( -name stack.env -o -name '*-token' -o -name 'secret.key*' -o -path '*/postgres/password' \) -type f -exec sha256sum {} +)
  while read -r digest _; do [[ ${#digest} == 64 && $found == *"$digest"* ]] || { output+=$'\n'"$before"$'\n--\n'"$found"; return 1; }; done <<<"$before"
}
owned_as_ever() { # nobody but the user of the parts has or reads what was moved
  local foreign
  foreign=$(find "$state"/{postgres,before-restore,stack.env,admin-token,node-token,control-plane/secret.key} \( ! -user "$(stat -Lc %U "$state/")" -o -perm /027 ! -name stack.env ! -type d \) -ls)
  [[ -z $foreign && $(stat -c %a "$state/before-restore") == 700 ]] || { output+=$'\n'$foreign; return 1; }
}
all_well() { "$evenkeel" status --state "$state" 2>&1 | grep -q 'acknowledged by all workers'; }
nothing_half_done() { [[ -z $(compgen -G "$state/restore.*") && ! -e $state/before-restore.new ]]; }
no_other_process() { [[ $(processes_of "$state/restore.new") == '' ]]; }

cut_backup() { # FROM TO: a good tar of a database that ends in its middle
  local parts=$scratch/replaced/parts names
  mkdir "$parts"; tar -xf "$1" -C "$parts"; mapfile -t names < <(tar -tf "$1")
  truncate -s "$(( $(stat -c %s "$parts/database.dump") / 2 ))" "$parts/database.dump"
  tar -cf "$2" -C "$parts" "${names[@]}"; rm -rf "$parts"
}

stumbling_mv() { # NAME GLOB fail|hang: a PATH whose mv does not do the renames with GLOB in "FROM TO", in programs
  programs=$scratch/replaced/$1
  mkdir "$programs"
  cat >"$programs/mv" <<END
#!/bin/bash
case "\$*" in $2) [[ $3 == hang ]] || exit 1; : >"$programs/reached"; exec sleep 60 ;; esac
exec /usr/bin/mv "\$@"
END
  chmod 777 "$programs"; chmod 755 "$programs/mv"
}
programs=''

killed_when() { # FILE COMMAND…: it and what it runs is killed as soon as FILE is there; what it has left running stays
  local file=$1 launcher; shift
  set -m; "$@" >"$scratch/killed.log" 2>&1 </dev/null & launcher=$!; set +m
  within 90 test -e "$file"; code=$?
  kill -KILL -- "-$launcher"; wait "$launcher" 2>/dev/null
  output=$(cat "$scratch/killed.log")
  (( code == 0 ))
}

group_restore() {
  local file=$scratch/replaced/good.tar cut=$scratch/replaced/cut.tar before revision
  mkdir "$scratch/replaced"
  stack restored
  promise 'a stack to be replaced comes up' worked_saying 'is up'
  run "$evenkeel" backup --state "$state" "$file"
  cut_backup "$file" "$cut"
  run "$evenkeel" rotate-secret-key --state "$state"
  promise 'its key is newer than its backup' worked_saying 'have the new key'
  run "$evenkeel" restore --state "$state" --force --undo
  promise 'before any restore there is nothing to undo' failed_saying 'nothing to be put back'
  before=$(what_counts "$state") revision=$(revision_of "$state")
  run "$evenkeel" restore --state "$state" --force "$cut"
  promise 'a database that ends in its middle is not restored' failed_saying 'the database could not be restored' 'nothing was replaced'
  promise 'in one sentence' one_sentence
  promise 'and keys, tokens and cluster are what they were' unchanged
  run "$evenkeel" restore --state "$state" --force "$cut"
  promise 'a second try is told the same' failed_saying 'nothing was replaced'
  promise 'and keys, tokens and cluster are what they were' unchanged
  promise 'while the stack goes on' all_well
  promise 'and nothing else runs' no_other_process

  promise 'a restore that is killed' killed_when "$state/restore.new/postgres/data/postmaster.pid" "$evenkeel" restore --state "$state" --force "$file"
  promise 'has changed nothing' unchanged
  run "$evenkeel" up --state "$state"
  promise 'to the next up the stack is up as ever' worked_saying 'already up'
  promise 'and nothing is left of the restore' nothing_half_done
  promise 'nor runs' no_other_process

  stumbling_mv fail "*'/restore.swap/admin-token '*" fail
  run env PATH="$programs:$PATH" "$evenkeel" restore --state "$state" --force "$file"
  promise "a rename that fails ends the restore" failed_saying 'nothing was replaced' 'could not be'
  promise 'and all is put back' unchanged
  promise 'and nothing is left half-done' nothing_half_done

  run "$evenkeel" restore --state "$state" --force "$file"
  promise 'a restore that succeeds says where it keeps what was there before' worked_saying "$state/before-restore" 'restore --undo'
  promise 'which is all that belongs together' kept
  promise 'for nobody else to read' owned_as_ever
  promise 'and it leaves nothing running' no_process_of "$state"
  run "$evenkeel" restore --state "$state" --force "$cut"
  promise 'a later one that fails leaves it alone' kept
  run "$evenkeel" restore --state "$state" --undo
  promise 'undo puts back what was there before' worked_saying './evenkeel up'
  promise 'all of it' unchanged
  promise 'and keeps what it replaced' test -s "$state/before-restore/control-plane/secret.key"
  run "$evenkeel" up --state "$state"
  promise 'up brings it up' worked_saying 'is up'
  promise 'with its revision' test "$(revision_of "$state")" = "$revision"

  run "$evenkeel" restore --state "$state" --undo
  promise 'what runs is not replaced without --force by undo either' failed_saying --force

  # In the middle of the swap: all is taken away, and some of the new is in place.
  stumbling_mv kill "*'/restore.swap/admin-token '*" hang
  promise "a restore that is killed as it renames" \
    killed_when "$programs/reached" env PATH="$programs:$PATH" "$evenkeel" restore --state "$state" --force "$file"
  promise 'has lost nothing' nothing_lost
  run "$evenkeel" status --state "$state"
  promise 'status tells of it' failed_saying 'restore' './evenkeel up'
  run "$evenkeel" down --state "$state"
  promise 'the next command finishes it' worked_saying 'finished'
  promise 'and what was there before is kept' kept
  promise 'and nothing is left half-done' nothing_half_done
  run "$evenkeel" restore --state "$state" --undo
  promise 'or undone' unchanged
  stumbling_mv stuck "*'/restore.swap/admin-token '*|*/restore.swap/stack.env" fail
  run env PATH="$programs:$PATH" "$evenkeel" restore --state "$state" --force "$file"
  promise 'where neither way goes on, it says where everything is, and the way out' \
    failed_saying 'neither be moved nor moved back' "$state/before-restore.new" "$state/restore.swap" "./evenkeel up --state $state finishes it"
  promise 'and it has lost nothing' nothing_lost
  run "$evenkeel" down --state "$state"
  promise 'which is a way out' kept
  run "$evenkeel" restore --state "$state" --undo
  promise 'and back' unchanged
  run "$evenkeel" up --state "$state"
  promise 'after all that, up brings it up' worked_saying 'is up'
  promise 'with its revision' test "$(revision_of "$state")" = "$revision"
  run "$evenkeel" down --purge --yes --state "$state"
  promise 'and down leaves no process and no file' left_nothing

  run "$evenkeel" restore --state "$state" "$cut"
  promise 'into an empty directory, too, a failed restore puts nothing' failed_saying 'nothing was replaced'
  run "$evenkeel" restore --state "$state" "$file"
  promise 'and the next one needs no force' worked_saying './evenkeel up'
  promise 'and has nothing to keep' test ! -e "$state/before-restore"
  run "$evenkeel" down --purge --yes --state "$state"
}

has_moved_from() { # STATE: no instance is a provider of that other stack
  local instance
  for instance in A B C LITE; do
    ! config_of | grep -q ":$(sed -n "s/^PROVIDER_${instance}_PORT=//p" "$1/stack.env")/v1" || return 1
  done
}

group_neighbours() {
  local first first_port
  stack first; first=$state first_port=$port
  promise 'a first stack comes up' worked_saying 'is up'
  stack second
  promise 'a second one comes up beside it' worked_saying 'is up'
  promise 'and answers' printed_curl_answers
  run "$evenkeel" up --state "$scratch/third" --port "$first_port" --admin-port "$admin_port"
  promise "a third on the first one's port is refused" failed_saying "port $first_port"
  run "$evenkeel" down --purge --yes --state "$state"
  run "$evenkeel" status --state "$first"
  promise 'the end of one is nothing to the other' worked_saying 'acknowledged by all workers'
  "$evenkeel" backup --state "$first" "$scratch/first.tar" >/dev/null
  run "$evenkeel" restore --state "$scratch/third" "$scratch/first.tar"
  promise 'its backup is restored beside it' worked_saying "./evenkeel up --state $scratch/third"
  stack third
  promise 'and comes up, with other ports where those are taken' worked_saying 'is up'
  promise 'and providers of its own' has_moved_from "$first"
  promise 'and answers' printed_curl_answers
  run "$evenkeel" down --purge --yes --state "$state"
  run "$evenkeel" down --purge --yes --state "$first"
  state=$first; promise 'and down leaves no process' left_nothing
}

control_plane_environment() { tr '\0' '\n' <"/proc/$(cat "$state/run/control-plane.pid")/environ"; }
has_variable() { control_plane_environment | grep -qx "$1"; }
has_no_variable() { ! control_plane_environment | grep -q "^$1="; }

write_config() { # FILE WEIGHT VARIABLE
  cat >"$1" <<END
gateway: {listen: "127.0.0.1:$port"}
instances:
  - {name: one, base_url: "http://127.0.0.1:9/v1", api_key: "env:$3", model: m, weight: $2}
pools:
  - {name: chat, models: [my-model], tiers: [{name: primary, instances: [one]}]}
END
}

tells_of_the_refusal() { # REVISION: that one alone, in nginx's words
  failed_saying "revision $1 is refused" 'cannot load certificate' 'goes on' && [[ $output != *applied* && $output != *'does not answer'* ]]
}

is_a_key() { (( code == 0 )) && [[ $output =~ ^ek-[A-Za-z0-9_-]{43}$ ]]; }
lists_without_keys() { worked_saying shop && [[ $output != *ek-* && $output != *[{}]* ]]; }

group_configuration() {
  local file=$scratch/evenkeel.yaml first
  awk '/^```/ { inside = /yaml/; next } inside' "$root/README.md" >"$scratch/readme.yaml"
  run dotnet "${EVENKEEL_RELEASE:-$root/.evenkeel-build/release}/control-plane/Evenkeel.ControlPlane.dll" validate "$scratch/readme.yaml"
  promise "the README's configuration is a good one" test "$code" = 0 -a -s "$scratch/readme.yaml"
  state=$scratch/configured
  free_port; port=$REPLY; free_port; admin_port=$REPLY
  write_config "$file" 5 EK_TEST_KEY
  run env EK_TEST_KEY=sk-one EK_TEST_OTHER=leak "$evenkeel" up --state "$state" --admin-port "$admin_port" --config "$file"
  promise 'up --config takes the address from the configuration' worked_saying "http://127.0.0.1:$port/v1"
  promise 'and prints a curl line with a model of that configuration' says '"model":"my-model"'
  promise 'the control plane gets the variables that the configuration names' has_variable EK_TEST_KEY=sk-one
  promise 'and no others' has_no_variable EK_TEST_OTHER
  promise 'no simulated provider runs' test ! -e "$state/run/provider.pid"
  first=$(revision_of "$state")
  run "$evenkeel" up --state "$state" --config "$file"
  promise 'a second up with the same configuration is a no-op' worked_saying 'nothing to do'

  write_config "$file" 7 EK_TEST_KEY
  run "$evenkeel" up --state "$state" --config "$file"
  promise 'a second up with another one points at apply' failed_saying './evenkeel apply'
  run "$evenkeel" apply --state "$state" "$file"
  promise 'apply publishes; a weight needs no reload' worked_saying 'no reload was needed'
  promise 'as a new revision' test "$(revision_of "$state")" -gt "$first"
  run "$evenkeel" apply --state "$state" "$file"
  promise 'applied again, nothing changes' worked_saying 'Nothing changed'
  first=$(revision_of "$state")
  printf 'surprise: 1\n' >>"$file"
  run "$evenkeel" apply --state "$state" "$file"
  promise 'apply shows the faults with their paths' failed_saying surprise
  promise 'and changes nothing' test "$(revision_of "$state")" = "$first"

  run "$evenkeel" token --state "$state" add ci operator --areas config,clients
  promise 'token add shows a new token' worked_saying 'eka_'
  run "$evenkeel" token --state "$state" add ci operator
  promise 'a name is taken once' failed_saying 'is taken by another token'
  run "$evenkeel" token --state "$state" list
  promise 'token list tells its name and role' worked_saying 'ci   operator config,clients'
  run "$evenkeel" token --state "$state" list --json
  promise 'with --json as the API has it' worked_saying '"name":"ci","role":"operator","areas":["config","clients"]'
  run "$evenkeel" token --state "$state" add other viewer --areas everything
  promise 'an area that there is not is refused' failed_saying 'refused'
  run "$evenkeel" token --state "$state" revoke ci
  promise 'token revoke ends it' worked_saying 'have ended'
  run "$evenkeel" node --state "$state" token --name node-2 --expires 30m
  promise 'node token shows a one-time token' worked_saying 'eke_'
  run "$evenkeel" node --state "$state" list
  promise 'node list tells of the node' worked_saying 'node-1 true'
  run "$evenkeel" node --state "$state" remove node-1
  promise 'a node with the token that all share is not removed from under it' failed_saying 'which cannot be taken'
  run "$evenkeel" node --state "$state" remove node-9
  promise 'nor one that there is not' failed_saying 'no such node'
  run "$evenkeel" rotate-secret-key --state "$state"
  promise 'stored secrets get a new key under way' worked_saying 'stored secrets have the new key'

  run "$evenkeel" client --state "$state" add shop
  promise 'client add prints the key, and nothing else' is_a_key
  first=$output
  run "$evenkeel" client --state "$state" rotate shop 0s
  promise 'client rotate prints another' is_a_key
  promise 'which is not the first' test "$output" != "$first"
  run "$evenkeel" client --state "$state" rotate shop 2h --json
  promise 'with --json it is the whole answer' worked_saying '"name":"shop"' '"key":"ek-' '"until":'
  run "$evenkeel" client --state "$state" off shop
  promise 'client off switches it off, and says so' worked_saying 'The client shop is off'
  run "$evenkeel" client --state "$state" list --json
  promise 'which the API tells as well' worked_saying '"enabled":false'
  run "$evenkeel" client --state "$state" list
  promise 'client list tells it, and no key' lists_without_keys
  run "$evenkeel" client --state "$state" on shop
  promise 'client on switches it on again' worked_saying 'The client shop is on.'
  run "$evenkeel" client --state "$state" remove shop
  promise 'client remove removes it, and says so' worked_saying 'The client shop is removed'
  run "$evenkeel" client --state "$state" off shop
  promise 'one that is not there is told as such' failed_saying 'refused: There is no client "shop".'
  run "$evenkeel" client --state "$state" add '../x'
  promise 'and a name that cannot be is refused' failed_saying 'needs the NAME of a client'

  write_config "$file" 7 EK_TEST_SECOND
  sed -i 's/{name: one,/{name: two,/; s/\[one\]/[two]/' "$file"
  run "$evenkeel" apply --state "$state" "$file"
  promise 'an added instance is a reload' worked_saying 'nginx was reloaded'
  promise 'and one without its key is told, and what to do' says '1 instance cannot be asked' 'EK_TEST_SECOND=… ./evenkeel up'
  run "$evenkeel" status --state "$state"
  promise 'by status too, which is not 0 then' failed_saying 'acknowledged by all workers' 'variable EK_TEST_SECOND is not set'
  run env EK_TEST_SECOND=sk-two "$evenkeel" apply --state "$state" "$file"
  promise 'a variable that is new to the control plane reaches it' has_variable EK_TEST_SECOND=sk-two

  first=$(revision_of "$state")
  free_port
  sed "s|^gateway:.*|gateway: {listen: \"127.0.0.1:$REPLY\", tls: {certificate_file: /none/cert.pem, key_file: /none/key.pem}}|" "$file" >"$scratch/refused.yaml"
  run env EK_TEST_SECOND=sk-two "$evenkeel" apply --state "$state" "$scratch/refused.yaml"
  promise 'apply says what nginx refuses' tells_of_the_refusal $(( first + 1 ))
  promise 'what goes on, and the way out' says "revision $first goes on" 'stays the wanted one' "./evenkeel apply FILE --state $state"
  run "$evenkeel" status --state "$state"
  promise 'status tells of it, and asks where the gateway still is' tells_of_the_refusal $(( first + 1 ))
  run env EK_TEST_SECOND=sk-two "$evenkeel" up --state "$state"
  promise 'and so does up' tells_of_the_refusal $(( first + 1 ))
  "$evenkeel" down --state "$state" >/dev/null
  run env EK_TEST_SECOND=sk-two "$evenkeel" up --state "$state"
  promise 'after a down, too' tells_of_the_refusal $(( first + 1 ))
  promise 'and what was good serves on' serves
  run env EK_TEST_SECOND=sk-two "$evenkeel" apply --state "$state" "$file"
  promise 'until a better one is applied' worked_saying "Revision $(( first + 2 )) runs"
  promise 'and then nothing is amiss' test "$code" = 0 -a "${output##*NOT ALL IS WELL*}" = "$output"
  run "$evenkeel" down --state "$state"
  run env EK_TEST_KEY=leak EK_TEST_SECOND=sk-2nd "$evenkeel" up --state "$state"
  promise 'up after down takes the variables of the file that was applied' has_variable EK_TEST_SECOND=sk-2nd
  promise 'and not those of the one before' has_no_variable EK_TEST_KEY
  curl -sf --noproxy '*' -m 10 -o /dev/null -X PATCH -H "authorization: Bearer $(cat "$state/admin-token")" -H 'content-type: application/json' \
    -d '{"api_key":"env:EK_TEST_THIRD","weight":8}' "http://127.0.0.1:$admin_port/api/v1/instances/two"
  run env EK_TEST_THIRD=sk-three "$evenkeel" up --state "$state"
  promise 'a variable that the API named reaches the control plane by up' has_variable EK_TEST_THIRD=sk-three
  promise 'beside those that it has' has_variable EK_TEST_SECOND=sk-2nd
  run "$evenkeel" status --state "$state"
  promise 'and then all is well' worked_saying 'acknowledged by all workers'
  run "$evenkeel" down --purge --yes --state "$state"
  promise 'and down leaves no process' left_nothing
}

has_started_postgres() { [[ -e $state/run/postgres.pid ]]; }

group_interruption() {
  local launcher
  state=$scratch/interrupted
  free_port; port=$REPLY; free_port; admin_port=$REPLY
  # In a group of its own, signalled as a terminal signals it.
  set -m; "$evenkeel" up --state "$state" --port "$port" --admin-port "$admin_port" >"$scratch/interrupted.log" 2>&1 </dev/null & launcher=$!; set +m
  within 60 has_started_postgres
  kill -INT -- "-$launcher"
  wait "$launcher"; code=$?
  output=$(cat "$scratch/interrupted.log")
  promise 'Ctrl-C ends up with an exit code other than 0' test "$code" -ne 0
  promise 'and stops what it had started' no_process_of "$state"
  run "$evenkeel" up --state "$state" --port "$port" --admin-port "$admin_port"
  promise 'the next up works' worked_saying 'is up'
  run "$evenkeel" down --purge --yes --state "$state"
}

group_clone() { # as a newcomer, in a directory that only its owner can enter
  local home=$scratch/newcomer
  mkdir -m 700 "$home"
  git clone -q --no-hardlinks "$root" "$home/evenkeel"
  state=$home/evenkeel/.evenkeel
  free_port; port=$REPLY; free_port; admin_port=$REPLY
  run env -u EVENKEEL_RELEASE "$home/evenkeel/evenkeel" up --port "$port" --admin-port "$admin_port"
  promise 'up in a fresh clone builds and comes up' worked_saying 'is up' 'building the control plane'
  promise 'and the printed curl line gives an answer' printed_curl_answers
  promise 'git sees nothing of it' test -z "$(git -C "$home/evenkeel" status --porcelain)"
  run "$home/evenkeel/evenkeel" down --purge --yes
  promise 'down --purge leaves no process and no file' left_nothing
}

(( $# == 0 )) || groups=("$@")
for group in "${groups[@]}"; do
  printf '# %s\n' "$group"
  "group_$group"
done
(( bad == 0 ))
