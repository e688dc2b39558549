#!/bin/bash
# The node's agent: keeps one nginx running with the text that the control plane wants. Needs bash, curl and coreutils.
#
# Promises
# - nginx.conf is replaced only by a text that `nginx -t` takes, by rename; nginx.conf.last-good is always a text that workers have
#   proved to run. A text that fails (nginx -t, load, start) is reported with nginx's own words and not tried again; the last good
#   one goes on.
# - A reload counts when every worker is new and says that it runs the new text. One reload at a time, none while old workers still
#   drain (up to EVENKEEL_DRAIN_WAIT_S; twice as long for each full set of workers that drains beyond the first); what comes meanwhile is
#   coalesced to the newest text.
# - When the files of the edge's certificate change and fit together (nginx -t), the running text is reloaded with them; no answer is cut.
# - nginx outlives the agent's crash: SIGKILL leaves it running and the next agent adopts it. SIGTERM ends both.
# - Without a control plane, or with one that refuses its token, it starts, and restarts, what is on disk.
# - A token of its own is made here, kept before it is shown, and asked for again when an answer is lost.
#
# Environment
#   EVENKEEL_CONTROL_URL      http://127.0.0.1:8081; several, with blanks between, are asked in turn: whichever answers is as good as another
#   EVENKEEL_NODE_NAME        this node's name
#   EVENKEEL_NODE_DIR         nginx prefix and working directory; holds lua/ (or a link to it)
#   EVENKEEL_NODE_TOKEN_FILE  the token that control plane and all nodes share, on machines that trust each other; or, instead of it:
#   EVENKEEL_ENROL_TOKEN_FILE, EVENKEEL_ENROL_TOKEN   a one-time token (./evenkeel node token): with it the node gets a token of its own, kept as
#                             NODE_DIR/node-token. The file is looked at again and again: a new one-time token in it makes a new own one
#   EVENKEEL_METRICS_TOKEN_FILE   a token that opens /metrics of the admin listener and nothing else, for Prometheus
#   EVENKEEL_ADMIN_LISTEN     where the admin listener listens (127.0.0.1:9145)
#   EVENKEEL_ADMIN_URL        where the control plane reaches it (http://ADMIN_LISTEN; with TLS https://ADMIN_LISTEN)
#   EVENKEEL_CONTROL_CA_FILE  PEM: whose certificate an https control plane has to show (those the system trusts)
#   EVENKEEL_CONTROL_CERT_FILE, EVENKEEL_CONTROL_KEY_FILE   PEM: the certificate that is shown to it, where it wants one
#   EVENKEEL_ADMIN_CERT_FILE, EVENKEEL_ADMIN_KEY_FILE       PEM: with them the admin listener speaks TLS; read again when they change
#   EVENKEEL_ADMIN_CLIENT_CA_FILE   PEM: whose certificates its callers have to show then, besides the token
#   EVENKEEL_EDGE_LISTEN, EVENKEEL_WORKERS   instead of the configuration's gateway.listen and gateway.workers
#   EVENKEEL_NAMESERVERS      who resolves the providers' names, as in "10.0.0.2 [fd00::53] 127.0.0.1:5353" (those of /etc/resolv.conf)
#   EVENKEEL_POLL_WAIT_S 5 · EVENKEEL_PROOF_WAIT_S 10 · EVENKEEL_DRAIN_WAIT_S 60 · EVENKEEL_STOP_WAIT_S 5
#   NGINX                     the binary (nginx)
set -u -o pipefail
umask 077
ulimit -c 0             # a core file would hold every key

log() { printf '%(%Y-%m-%dT%H:%M:%S%z)T agent: %s\n' -1 "$*"; }
die() { log "$*" >&2; exit 1; }

: "${EVENKEEL_CONTROL_URL:?}" "${EVENKEEL_NODE_NAME:?}" "${EVENKEEL_NODE_DIR:?}"
read -r -a CONTROL_URLS <<<"$EVENKEEL_CONTROL_URL"
((${#CONTROL_URLS[@]})) || die "EVENKEEL_CONTROL_URL names no control plane"
ADMIN_LISTEN="${EVENKEEL_ADMIN_LISTEN:-127.0.0.1:9145}"
ADMIN_CERT_FILE="${EVENKEEL_ADMIN_CERT_FILE:-}"
ADMIN_URL="${EVENKEEL_ADMIN_URL:-http${ADMIN_CERT_FILE:+s}://$ADMIN_LISTEN}"
CONTROL_TLS=(${EVENKEEL_CONTROL_CA_FILE:+--cacert "$EVENKEEL_CONTROL_CA_FILE"} ${EVENKEEL_CONTROL_CERT_FILE:+--cert "$EVENKEEL_CONTROL_CERT_FILE"}
  ${EVENKEEL_CONTROL_KEY_FILE:+--key "$EVENKEEL_CONTROL_KEY_FILE"})
POLL_WAIT_S="${EVENKEEL_POLL_WAIT_S:-5}"
PROOF_WAIT_S="${EVENKEEL_PROOF_WAIT_S:-10}"
DRAIN_WAIT_S="${EVENKEEL_DRAIN_WAIT_S:-60}"
STOP_WAIT_S="${EVENKEEL_STOP_WAIT_S:-5}"
WORDS_MAX_BYTES=16384
START_PAUSE_MAX_S=10
EARLY_FAILURE_S=3       # nginx retries a bind for 2.5 s before it gives a reload up

SHARED_TOKEN_FILE="${EVENKEEL_NODE_TOKEN_FILE:-}"
ENROL_TOKEN_FILE="${EVENKEEL_ENROL_TOKEN_FILE:-}"
[[ -z $SHARED_TOKEN_FILE || -z $ENROL_TOKEN_FILE${EVENKEEL_ENROL_TOKEN:-} ]] ||
  die "EVENKEEL_NODE_TOKEN_FILE is the token that all share, EVENKEEL_ENROL_TOKEN_FILE is for one of its own: give one of them"
NGINX=$(command -v "${NGINX:-nginx}" || command -v /usr/sbin/nginx) || die "nginx is not installed (NGINX names the binary)"
cd "$EVENKEEL_NODE_DIR" || die "no directory $EVENKEEL_NODE_DIR"
mkdir -p logs run/instances tmp
exec 9>run/agent.lock
flock -w 2 9 || die "another agent runs this node"

# The admin listener as seen from here, for texts that have no socket for us.
case $ADMIN_LISTEN in
  '*':* | 0.0.0.0:*) LOCAL_ADMIN_URL="http://127.0.0.1:${ADMIN_LISTEN##*:}" ;;
  '[::]':*) LOCAL_ADMIN_URL="http://[::1]:${ADMIN_LISTEN##*:}" ;;
  *) LOCAL_ADMIN_URL="http://$ADMIN_LISTEN" ;;
esac

# What is on disk may be of other settings than ours: a text whose admin listener speaks TLS,
has_admin_tls() { grep -q '^ *include platform-admin\.conf;' "$1" 2>/dev/null; }
# and one with a socket for us, which is there wherever that listener is. (Those of older releases have none.)
has_admin_socket() { has_admin_tls "$1" || grep -q '^ *listen unix:run/admin\.sock;' "$1" 2>/dev/null; }

# What the rendered text includes for an admin listener that speaks TLS.
admin_tls() { # DIRECTIVE FILE
  local path='^/[^][:cntrl:]"\$;{}]+$'
  [[ $2 =~ $path ]] || die "$1: '$2' is no absolute path without quotes, backslashes, dollars, semicolons and braces"
  printf '%s "%s";\n' "$1" "$2"
}
if [[ -n $ADMIN_CERT_FILE ]]; then
  [[ $ADMIN_URL == https://* ]] || die "EVENKEEL_ADMIN_CERT_FILE needs an https EVENKEEL_ADMIN_URL"
  {
    echo 'listen unix:run/admin.sock;'
    echo 'ssl_protocols TLSv1.2 TLSv1.3;'
    echo 'ssl_verify_depth 8;'          # a company's CA has others between
    admin_tls ssl_certificate "$ADMIN_CERT_FILE"
    admin_tls ssl_certificate_key "${EVENKEEL_ADMIN_KEY_FILE:-$ADMIN_CERT_FILE}"
    if [[ -n ${EVENKEEL_ADMIN_CLIENT_CA_FILE:-} ]]; then
      admin_tls ssl_client_certificate "$EVENKEEL_ADMIN_CLIENT_CA_FILE"
      echo 'ssl_verify_client on;'
    fi
  } >platform-admin.conf.new && mv platform-admin.conf.new platform-admin.conf || exit 1
else
  [[ -z ${EVENKEEL_ADMIN_KEY_FILE:-}${EVENKEEL_ADMIN_CLIENT_CA_FILE:-} && $ADMIN_URL != https://* ]] ||
    die "an https EVENKEEL_ADMIN_URL, EVENKEEL_ADMIN_KEY_FILE and EVENKEEL_ADMIN_CLIENT_CA_FILE need EVENKEEL_ADMIN_CERT_FILE"
  # The certificate that a text on disk was made for is no longer ours to show: until the next text, only our socket is left of that listener.
  for text in nginx.conf nginx.conf.last-good; do
    has_admin_tls "$text" || continue
    echo 'listen unix:run/admin.sock;' >platform-admin.conf.new && mv platform-admin.conf.new platform-admin.conf
    sed '/^ *listen [^ ;]* ssl;$/{N;/\n *include platform-admin\.conf;/s/^[^\n]*\n//}' "$text" >"$text.new" && mv "$text.new" "$text" || exit 1
  done
fi

# A token goes by file, never on a command line. nginx reads `token` when it loads a text: one that changes needs a reload.
token="" last_token=$(cat token 2>/dev/null)
use_token() {
  token=$1
  printf '%s\n' "$token" >token.new && mv token.new token
  printf 'Authorization: Bearer %s\n' "$token" >run/agent.header
}
if [[ -n $SHARED_TOKEN_FILE ]]; then
  token=$(<"$SHARED_TOKEN_FILE") || die "cannot read $SHARED_TOKEN_FILE"
elif [[ -s node-token ]]; then
  token=$(<node-token)
elif [[ -n $ENROL_TOKEN_FILE${EVENKEEL_ENROL_TOKEN:-} ]]; then
  token=$last_token       # until it has enrolled
else
  die "no token: give EVENKEEL_NODE_TOKEN_FILE, or EVENKEEL_ENROL_TOKEN_FILE to enrol"
fi
rm -f metrics-token
[[ -z ${EVENKEEL_METRICS_TOKEN_FILE:-} ]] || cat "$EVENKEEL_METRICS_TOKEN_FILE" >metrics-token || die "cannot read $EVENKEEL_METRICS_TOKEN_FILE"
: >run/agent.header
[[ -z $token ]] || use_token "$token"

# --- what this machine adds to the text ------------------------------------------------------------------------------------

first_file() { local file; for file in "$@"; do [[ -f $file ]] && printf '%s' "$file" && return 0; done; }

nameservers() {
  local word address _
  [[ -r /etc/resolv.conf ]] || return 0
  while read -r word address _; do
    case $word:$address in
      nameserver:*%*) ;;                                  # nginx knows no zone ids
      nameserver:*:*) printf ' [%s]' "$address" ;;
      nameserver:*) printf ' %s' "$address" ;;
    esac
  done </etc/resolv.conf
}

# An address that is neither loopback nor link-local.
has_ipv6() { [[ -r /proc/net/if_inet6 ]] && grep -qE '^[0-9a-f]{32} [0-9a-f]+ [0-9a-f]+ 00 ' /proc/net/if_inet6; }

write_platform() {
  local modules=/usr/lib/nginx/modules debian="" certificates architecture
  [[ -f $modules/ngx_http_lua_module.so ]] && debian=1
  {
    [[ -n $debian && -f $modules/ndk_http_module.so ]] && echo "load_module $modules/ndk_http_module.so;"
    [[ -n $debian ]] && echo "load_module $modules/ngx_http_lua_module.so;"
    # Workers must read and write what belongs to this user (token, snapshot); nginx asks only when it starts as root.
    ((EUID == 0)) && echo "user $(id -un) $(id -gn);"
  } >platform-main.conf.new
  # Who resolves the providers' names: our Lua asks by itself, to judge an address before it is connected to.
  printf '%s%s\n' "${EVENKEEL_NAMESERVERS:-$(nameservers)}" "$(has_ipv6 && echo ' ipv6')" >nameservers.new
  {
    # OpenResty brings its own libraries: Debian's would shadow them.
    if [[ -n $debian ]]; then
      architecture=$(uname -m)
      echo "lua_package_path \"\$prefix/lua/?.lua;/usr/share/lua/5.1/?.lua;;\";"
      echo "lua_package_cpath \"/usr/lib/$architecture-linux-gnu/lua/5.1/?.so;;\";"
    else
      echo "lua_package_path \"\$prefix/lua/?.lua;;\";"
    fi
  } >platform-http.conf.new
  certificates=$(first_file /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem)
  echo "${certificates:+lua_ssl_trusted_certificate $certificates;}" >platform-adapters.conf.new
  mv platform-main.conf.new platform-main.conf
  mv nameservers.new nameservers
  mv platform-http.conf.new platform-http.conf
  mv platform-adapters.conf.new platform-adapters.conf
}

# --- the processes of this node: nginx processes whose working directory is ours ----------------------------------------------

# title PID: of a process of ours, else nothing. It forks nothing: a proof asks often, and most often when the machine is busy.
title=""
title() {
  title=""
  [[ /proc/$1/cwd -ef . ]] || return 1
  { IFS= read -r -d '' title <"/proc/$1/cmdline"; } 2>/dev/null
  [[ $title == "nginx: "* ]]
}

# processes PATTERN → pids whose title fits
processes() {
  local process
  for process in /proc/[0-9]*; do
    # shellcheck disable=SC2053 # a pattern
    title "${process##*/}" && [[ $title == "nginx: "$1 ]] && printf '%s\n' "${process##*/}"
  done
  return 0
}

workers() { processes "worker process"; }       # those that take new connections
draining_workers() { processes "worker process is shutting down"; }

# (Every `return` here has its status: a bare one, reached from a trap, gives the status from before the trap.)
master=""       # pid of the running master, or empty
is_master() { [[ -n $1 ]] && title "$1" && [[ $title == "nginx: master process"* ]]; }
is_running() {
  is_master "$master" && return 0
  master=""
  [[ -r run/nginx.pid ]] && read -r master <run/nginx.pid
  is_master "$master" && return 0
  master=""
  return 1
}

# now_s: seconds that only grow, whatever is done to the time of day (bash's SECONDS goes by that).
now_s=0
look_at_clock() { local rest; read -r now_s rest </proc/uptime && now_s=${now_s%.*}; }

# A sleep that a signal ends.
pause() { sleep "$1" 9>&- & wait $!; }

# --- proof -------------------------------------------------------------------------------------------------------------------

plain_call() { curl -q --silent --show-error --noproxy '*' --connect-timeout 2 "$@" 9>&-; }
call() { plain_call --header @run/agent.header "$@"; }

control=0       # the control plane that is asked: an index of CONTROL_URLS
node_url() { printf '%s/node/v1/%s' "${CONTROL_URLS[control]%/}" "$EVENKEEL_NODE_NAME"; }
next_control() { control=$(((control + 1) % ${#CONTROL_URLS[@]})); }

node_status() {
  local socket=()
  has_admin_socket nginx.conf && socket=(--unix-socket run/admin.sock)
  call "${socket[@]}" --fail --max-time 2 "$LOCAL_ADMIN_URL/status?format=text" 2>/dev/null
}

# The digest that a rendered text carries.
text_digest() { grep -oEm1 '\b[0-9a-f]{64}\b' "$1" 2>/dev/null | head -n1; }

# runs DIGEST OLD-PIDS: every worker is new and says that it runs this text. Every: nginx forks one after the other, and a first may speak
# before a last has begun.
runs() {
  local digest=$1 old=" ${2//$'\n'/ } " pids pid word rest said_digest meant=1
  local -A said=()
  pids=$(workers)
  [[ -n $pids ]] || return 1
  for pid in $pids; do [[ $old != *" $pid "* ]] || return 1; done
  while read -r word pid rest said_digest; do
    case $word in
      workers) meant=$pid ;;
      worker) said[$pid]=$said_digest ;;
    esac
  done < <(node_status)
  for pid in $pids; do
    [[ ${said[$pid]:-} == "$digest" ]] || return 1
    ((--meant))
  done
  ((meant <= 0))
}

# prove DIGEST OLD-PIDS LOG-OFFSET: waits until it runs; gives up early when nginx has said why it will not.
prove() {
  look_at_clock
  local start=$now_s
  until runs "$1" "$2"; do
    look_at_clock
    ((now_s - start < PROOF_WAIT_S)) || return 1
    if ((now_s - start >= EARLY_FAILURE_S)) && [[ -n $2 && $(workers) == "$2" ]] &&
      log_since "$3" | grep -qE '\[emerg\]|init_by_lua error'; then return 1; fi
    is_running || return 1
    pause 0.1
  done
}

log_size() { stat -c %s logs/error.log 2>/dev/null || echo 0; }
log_since() { tail -c "+$(($1 + 1))" logs/error.log 2>/dev/null; }

# words_since OFFSET: what the master wrote to error.log (the workers' lines are about requests), else everything.
words_since() {
  local words
  words=$(log_since "$1" | awk -v mark="] ${master:-none}#" '/^[0-9][0-9][0-9][0-9]\/[0-9][0-9]\// { ours = index($0, mark) } ours')
  if [[ -n $words ]]; then printf '%s\n' "$words"; else log_since "$1"; fi
}

# --- reports -----------------------------------------------------------------------------------------------------------------

# report applied|refused STAGE DIGEST REVISION < words: kept until the control plane has it; a newer one takes its place.
report() {
  head -c "$WORDS_MAX_BYTES" >run/agent.report.words
  printf '%s\n' "revision=$4&text_digest=$3&result=$1&stage=$2" >run/agent.report
  log "revision $4: $1 ($2)"
  [[ $1 == refused ]] && sed 's/^/  nginx: /' run/agent.report.words
  send_report
}

send_report() {
  local query http
  [[ -s run/agent.report ]] || return 0
  query=$(<run/agent.report)
  http=$(call "${CONTROL_TLS[@]}" --max-time 5 --output /dev/null --write-out '%{http_code}' --header 'Content-Type: text/plain' \
    --data-binary @run/agent.report.words "$(node_url)/reports?$query" 2>/dev/null)
  case $http in
    2??) rm -f run/agent.report ;;
    401 | 429) ;;       # our token is refused: kept until it is taken again
    4??) log "the control plane does not take the report: HTTP $http"; rm -f run/agent.report ;;
  esac
}

# --- start, reload, stop -----------------------------------------------------------------------------------------------------

put_live() { cp "$1" nginx.conf.new && mv nginx.conf.new nginx.conf; }
keep_as_good() { cp nginx.conf nginx.conf.last-good.new && mv nginx.conf.last-good.new nginx.conf.last-good; }

# Workers whose master was killed still hold the listeners: they let go of them and finish their answers.
release_listeners() {
  local pids deadline
  mapfile -t pids < <(workers)
  ((${#pids[@]})) || return 0
  log "the master is gone: workers ${pids[*]} finish what they have"
  kill -QUIT "${pids[@]}" 2>/dev/null
  look_at_clock
  deadline=$((now_s + 5))
  while [[ -n $(workers) ]] && ((now_s < deadline)); do pause 0.05; look_at_clock; done
  mapfile -t pids < <(workers)
  ((${#pids[@]} == 0)) || kill -KILL "${pids[@]}" 2>/dev/null
}

# Starts nginx.conf and proves it. Words of a failure: run/agent.start.words.
start_nginx() {
  local offset digest files
  release_listeners
  files=$(certificates)
  rm -f run/instances/*.sock run/admin.sock run/nginx.pid
  offset=$(log_size)
  digest=$(text_digest nginx.conf)
  # Its words on stderr are in error.log too, except before that file is opened.
  if "$NGINX" -p "$PWD/" -c nginx.conf </dev/null >/dev/null 2>run/agent.start.words 9>&-; then
    for _ in {1..50}; do is_running && break; pause 0.1; done
    if prove "$digest" "" "$offset"; then
      keep_as_good
      loaded_certificates=$files
      log "nginx runs (master $master)"
      return 0
    fi
    { echo "nginx started, but its workers do not say that they run this text"; words_since "$offset"; } >run/agent.start.words
    quit_nginx 1
  fi
  return 1
}

# certificates [TEXT]: path, inode, size and time of the files that it, or nginx.conf, names for its edge, and we for the admin listener.
certificates() {
  local name text=${1:-nginx.conf}
  while read -r name; do stat -L -c '%n %i %s %.9Y' -- "$name" 2>&1; done \
    < <(sed -nE 's/^ *ssl_(certificate|certificate_key|client_certificate) "?([^";]+)"?;.*$/\2/p' "$text" platform-admin.conf 2>/dev/null)
}

# reload DIGEST: nginx.conf is live within PROOF_WAIT_S, or the last good text is and the words are in run/agent.load.words.
reload() {
  local offset old files
  old=$(workers)
  offset=$(log_size)
  files=$(certificates)
  kill -HUP "$master"
  if prove "$1" "$old" "$offset"; then
    keep_as_good
    loaded_certificates=$files
    return 0
  fi
  words_since "$offset" >run/agent.load.words
  [[ -s run/agent.load.words ]] || echo "no worker said within $PROOF_WAIT_S s that it runs this text" >run/agent.load.words
  if [[ -f nginx.conf.last-good ]]; then
    put_live nginx.conf.last-good
    # The old workers may have been replaced by ones that do not work.
    if is_running && [[ $(workers) != "$old" ]]; then
      old=$(workers)
      kill -HUP "$master"
      prove "$(text_digest nginx.conf)" "$old" "$(log_size)" || log "the last good text does not come back"
    fi
  fi
  return 1
}

# may_reload SINCE: no old workers drain, or they have done so for long enough since then: DRAIN_WAIT_S, and twice as long for each full set of
# workers beyond the first. So answers of an hour leave about six sets of old workers behind at most, and a reload comes all the same.
may_reload() {
  local draining living sets
  mapfile -t draining < <(draining_workers)
  ((${#draining[@]})) || return 0
  mapfile -t living < <(workers)
  ((sets = ${#living[@]} ? (${#draining[@]} + ${#living[@]} - 1) / ${#living[@]} : 1))
  look_at_clock
  ((now_s - $1 >= DRAIN_WAIT_S << (sets - 1)))
}

# quit_nginx SECONDS: lets answers end for so long, then ends them.
quit_nginx() {
  local deadline pids
  is_running || return 0
  kill -QUIT "$master" 2>/dev/null
  look_at_clock
  deadline=$((now_s + $1))
  while is_running && ((now_s < deadline)); do sleep 0.1 9>&-; look_at_clock; done
  is_running || return 0
  kill -TERM "$master" 2>/dev/null
  deadline=$((now_s + 5))
  while is_running && ((now_s < deadline)); do sleep 0.1 9>&-; look_at_clock; done
  is_running || return 0
  mapfile -t pids < <(processes "worker*")
  kill -KILL "$master" "${pids[@]}" 2>/dev/null
}

end() {
  trap '' TERM INT
  log "ending nginx"
  # shellcheck disable=SC2046 # one word per job
  kill $(jobs -p) 2>/dev/null
  # Who ends us may say how long answers get, over the environment's word, until we have ended.
  if read -r REPLY <run/stop-wait-s && [[ $REPLY =~ ^[0-9]{1,5}$ ]]; then STOP_WAIT_S=$((10#$REPLY)); fi 2>/dev/null
  rm -f run/stop-wait-s
  quit_nginx "$STOP_WAIT_S"
  log "ended"
  exit 0
}
trap end TERM INT
trap '' HUP

# --- the loop ----------------------------------------------------------------------------------------------------------------

revision=0      # of the last text that was fetched
refused=""      # digest of the text that failed last: not asked for again,
refused_files="" # unless these were certificates that lacked or were unfit, and are others now
start_pause_s=1
next_start_s=0

ensure_running() {
  is_running && return 0
  [[ -f nginx.conf || -f nginx.conf.last-good ]] || return 0
  look_at_clock
  ((now_s >= next_start_s)) || return 0
  [[ -f nginx.conf ]] || put_live nginx.conf.last-good
  write_platform
  local digest good
  digest=$(text_digest nginx.conf)
  if start_nginx; then
    # What could not start before, can now.
    [[ $unstarted == "$digest" ]] && report applied start "$digest" "$revision" </dev/null
    unstarted=""; start_pause_s=1
    return 0
  fi
  [[ $unstarted == "$digest" ]] || report refused start "$digest" "$revision" <run/agent.start.words
  unstarted=$digest
  good=$(text_digest nginx.conf.last-good)
  if [[ -n $good && $good != "$digest" ]]; then
    log "going back to the last good text"
    refused=$digest; unstarted=""
    put_live nginx.conf.last-good
    start_nginx && start_pause_s=1 && return 0
  fi
  look_at_clock
  next_start_s=$((now_s + start_pause_s))
  start_pause_s=$((start_pause_s * 2 > START_PAUSE_MAX_S ? START_PAUSE_MAX_S : start_pause_s * 2))
}
unstarted=""    # digest of the text that could not start

fetched=run/agent.fetch.$$      # of this agent alone: the poll of one that was killed may still be writing
rm -f run/agent.fetch*

# fetch WAIT_S: sets http (000: no answer), and digest and revision when it is 200; the text is in nginx.conf.candidate.
fetch() {
  local have poll code_and_exit
  http=000
  digest=""
  have=${refused:-$(text_digest nginx.conf)}
  : >"$fetched"
  {
    exec 9>&-     # it outlives an agent that is killed, and must not keep the next one out
    call "${CONTROL_TLS[@]}" --get --max-time $(($1 + 10)) --output "$fetched.text" --dump-header "$fetched.headers" \
      --write-out '%{http_code} %{exitcode}' \
      --data-urlencode "have=$have" --data-urlencode "wait_s=$1" \
      --data-urlencode "admin_listen=$ADMIN_LISTEN" --data-urlencode "admin_url=$ADMIN_URL" \
      --data-urlencode "edge_listen=${EVENKEEL_EDGE_LISTEN:-}" --data-urlencode "workers=${EVENKEEL_WORKERS:-}" \
      "$(node_url)/nginx.conf" >"$fetched" 2>"$fetched.error"
  } &
  poll=$!
  while kill -0 "$poll" 2>/dev/null; do
    if [[ -n $master ]] && ! is_running; then
      kill "$poll" 2>/dev/null      # nginx died: that comes first
      wait "$poll" 2>/dev/null
      http=""
      return 0
    fi
    sleep 0.25 9>&- & wait -n "$poll" $! 2>/dev/null
  done
  code_and_exit=$(<"$fetched")
  [[ $code_and_exit == ???" 0" ]] && http=${code_and_exit% 0}
  [[ $http == 200 ]] || return 0
  local name value
  while IFS=': ' read -r name value; do
    value=${value%$'\r'}
    case ${name,,} in
      x-evenkeel-revision) revision=$value ;;
      x-evenkeel-text-digest) digest=$value ;;
    esac
  done <"$fetched.headers"
  [[ $digest =~ ^[0-9a-f]{64}$ && $revision =~ ^[0-9]+$ ]] || { http=000; log "an answer without revision and digest"; return 0; }
  mv "$fetched.text" nginx.conf.candidate
}

# apply: nginx.conf.candidate, of $digest and $revision.
apply() {
  refused_files=""
  if is_running && [[ $digest == "$(text_digest nginx.conf)" ]] && runs "$digest" ""; then
    refused=""
    report applied load "$digest" "$revision" </dev/null
    return 0
  fi
  write_platform
  if ! "$NGINX" -t -p "$PWD/" -c nginx.conf.candidate </dev/null >run/agent.test.words 2>&1 9>&-; then
    refused=$digest
    mv nginx.conf.candidate nginx.conf.refused
    refused_files=$(certificates nginx.conf.refused)
    report refused test "$digest" "$revision" <run/agent.test.words
    return 0
  fi
  mv nginx.conf.candidate nginx.conf
  refused=""
  if ! is_running; then
    next_start_s=0; unstarted=""
    ensure_running
    is_running && [[ -z $refused ]] && report applied start "$digest" "$revision" </dev/null
  elif reload "$digest"; then
    report applied load "$digest" "$revision" </dev/null
  else
    refused=$digest
    report refused load "$digest" "$revision" <run/agent.load.words
  fi
}

loaded_certificates=""      # as `certificates` said when nginx last read them
unfit_certificates=""       # as it said when nginx -t refused them: asked again when they change
changed_since_s=""

renew_certificates() {
  local files
  is_running || return 0
  files=$(certificates)
  if [[ $files == "$loaded_certificates" || $files == "$unfit_certificates" ]]; then changed_since_s=""; return 0; fi
  look_at_clock
  : "${changed_since_s:=$now_s}"
  may_reload "$changed_since_s" || return 0
  changed_since_s=""
  if ! "$NGINX" -t -p "$PWD/" -c nginx.conf </dev/null >run/agent.test.words 2>&1 9>&-; then
    unfit_certificates=$files
    log "the certificate's new files cannot be used; the old ones go on:"
    sed 's/^/  nginx: /' run/agent.test.words
  elif reload "$(text_digest nginx.conf)"; then
    unfit_certificates=""
    log "the certificate's new files are in use"
  else
    unfit_certificates=$files
    log "the reload with the certificate's new files failed"
  fi
}

# A text that nginx -t refused is asked for again when the files that it names are others than then.
forgive_refused() {
  [[ -n $refused_files && $(certificates nginx.conf.refused) != "$refused_files" ]] || return 0
  log "the files of the refused text have changed: it is tried again"
  refused="" refused_files=""
}

# --- enrolment ---------------------------------------------------------------------------------------------------------------

tried=""        # the one-time token that needs no further try
not_enrolled="" # why not, as it was last said

# enrol: true when a one-time token that was not used yet has brought a token of our own, which is in use then.
enrol() {
  local once="${EVENKEEL_ENROL_TOKEN:-}" digest http why
  [[ -z $ENROL_TOKEN_FILE ]] || once=$(cat "$ENROL_TOKEN_FILE" 2>/dev/null)
  [[ -n $once && $once != "$tried" ]] || return 1
  digest=$(sha256sum <<<"$once")
  if [[ -s node-token && $(cat node-token.enrolment 2>/dev/null) == "$digest" ]]; then tried=$once; return 1; fi
  [[ -s node-token.new ]] || head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=\n' >node-token.new
  printf 'Authorization: Bearer %s\n' "$once" >run/agent.enrol.header
  http=$(plain_call "${CONTROL_TLS[@]}" --max-time 10 --header @run/agent.enrol.header --header 'Content-Type: text/plain' --data-binary @node-token.new \
    --output run/agent.enrol --write-out '%{http_code}' "${CONTROL_URLS[control]%/}/node/v1/enrol?node=$EVENKEEL_NODE_NAME" 2>run/agent.enrol.error)
  rm -f run/agent.enrol.header
  case $http in
    2??)
      mv node-token.new node-token
      printf '%s\n' "$digest" >node-token.enrolment
      tried=$once not_enrolled=""
      use_token "$(<node-token)"
      log "enrolled as $EVENKEEL_NODE_NAME"
      return 0
      ;;
    400 | 401 | 403 | 409) tried=$once why="HTTP $http $(head -c 400 run/agent.enrol)" ;;
    *)                          # asked again, or another one is
      why="HTTP ${http:-000} $(head -n1 run/agent.enrol.error)"
      next_control
      ;;
  esac
  [[ $why == "$not_enrolled" ]] || log "not enrolled: $why"
  not_enrolled=$why
  return 1
}

# nginx takes the token that is in use now; what it serves is not touched.
reload_for_token() {
  is_running || return 0
  if reload "$(text_digest nginx.conf)"; then log "nginx knows the new token"; else log "the reload for the new token failed"; fi
}

log "node $EVENKEEL_NODE_NAME in $PWD, control plane $EVENKEEL_CONTROL_URL"
write_platform
if is_running; then
  log "adopting the running nginx (master $master)"
  [[ $token == "$last_token" ]] || reload_for_token
else
  ensure_running
fi
# The last agent may have ended between rename and proof: either the workers run what is on disk, or they run the last good text.
if is_running; then
  if runs "$(text_digest nginx.conf)" ""; then keep_as_good; elif [[ -f nginx.conf.last-good ]]; then put_live nginx.conf.last-good; fi
fi

drain_since_s=""
declare -A away=()      # control plane → what it said last, when that was no text
while :; do
  enrol && reload_for_token
  if [[ -z $token ]]; then pause 2; continue; fi
  ensure_running
  renew_certificates
  forgive_refused
  send_report
  fetch "$POLL_WAIT_S"
  case $http in
    200)
      away=()
      if is_running && [[ -n $(draining_workers) ]]; then
        look_at_clock
        : "${drain_since_s:=$now_s}"
        may_reload "$drain_since_s" || { pause 1; continue; }
        log "old workers still drain after $((now_s - drain_since_s)) s: reloading all the same"
      fi
      drain_since_s=""
      apply
      ;;
    204) away=() ;;
    "") ;;
    401 | 429)
      [[ ${away[$control]:-} == refused ]] || log "the control plane refuses this node's token: was the node removed? It goes on with what it has; a one-time token for its name lets it in again"
      away[$control]=refused
      pause 1
      for _ in 1 2 3 4; do is_running && pause 1; done      # when nginx has died, that comes first
      ;;
    *)
      [[ ${away[$control]:-} == "$http" ]] || log "no text from the control plane ${CONTROL_URLS[control]}: HTTP $http $(head -n1 "$fetched.error")"
      away[$control]=$http
      next_control
      pause 1
      ;;
  esac
done
