# ./evenkeel help

help_of() {
  case $1 in
    up) cat <<'END'
./evenkeel up [--config FILE] [--port N] [--admin-port N] [--state DIR] [--workers N]

Brings the gateway up: installs what is missing (apt), builds, starts PostgreSQL, the control plane and the node,
and waits until the first revision runs. Without --config it is the demo, with three simulated DeepSeek instances.
Started again, it starts only what has died.

  --config FILE    the configuration (YAML or JSON); variables it names as env:NAME are taken from your environment
  --port N         the gateway's port, over the configuration's; default 8080
  --admin-port N   the control plane's port (REST API, dashboard); default 8081
  --state DIR      where all data lies; default .evenkeel/ in the checkout; several stacks need one each
  --workers N      nginx workers: a number or auto, over the configuration's

  EVENKEEL_RELEASE=DIR   run this release (made by ./evenkeel build) instead of building one
END
    ;;
    down) cat <<'END'
./evenkeel down [--state DIR] [--wait SECONDS] [--purge [--yes]]

Stops every process of this state directory. New requests are refused at once; answers under way get 5 seconds, or SECONDS, and
are cut then. The data is kept; --purge removes it (and asks, unless --yes).
END
    ;;
    status) cat <<'END'
./evenkeel status [--state DIR]

Shows the parts, the revision, whether all workers run it, and what it had to leave out, like an instance without its key.
Exit code 0 only if all is well.
END
    ;;
    logs) cat <<'END'
./evenkeel logs [--state DIR] [-f] [PART…]

Shows the last lines of the logs; -f follows them. Parts: postgres, provider, control-plane, agent, nginx, access.
END
    ;;
    apply) cat <<'END'
./evenkeel apply [--state DIR] FILE

Checks the configuration, publishes it as a new revision and waits until all workers run it. Variables that it names as env:NAME
are taken from your environment. What the revision cannot use, like an instance without its key, is told; the exit code is 0 all the same.
END
    ;;
    client) cat <<'END'
./evenkeel client [--state DIR] list | add NAME | rotate NAME [OVERLAP] | off NAME | on NAME | remove NAME [--json]

Callers with keys of their own. `add` and `rotate` print the new key, once and alone; after a rotation the old keys
go on for the OVERLAP (1h unless told, 0s: not at all). `off` refuses a client at every node within a second. --json
prints the API's whole answer, for scripts. Limits, models and budgets: the configuration's clients, or the API
(docs/clients.md).
END
    ;;
    token) cat <<'END'
./evenkeel token [--state DIR] add NAME viewer|operator|admin [--areas A,B]
./evenkeel token [--state DIR] list [--json]
./evenkeel token [--state DIR] revoke NAME

Tokens for the REST API and the dashboard. A new one is shown once. A viewer reads; an operator changes weight, drain and enabled of instances
and acknowledges incidents; an admin does everything. --areas binds a token to parts of the API: config, clients, nodes, telemetry, incidents,
alerts, ghosts, access.
END
    ;;
    node) cat <<'END'
./evenkeel node [--state DIR] list [--json]
./evenkeel node [--state DIR] token [--name NAME] [--expires 1h]
./evenkeel node [--state DIR] remove NAME

Nodes on other machines. `token` shows a one-time token with which a node's agent enrols (EVENKEEL_ENROL_TOKEN_FILE): any node that is new, or, with
--name, that one, also in place of the token it has. `remove` ends a node's token at once; the node goes on with what it has until its agent is ended.
END
    ;;
    rotate-secret-key) cat <<'END'
./evenkeel rotate-secret-key [--state DIR] [--prepare]

Encrypts all stored secrets with a new key, while everything runs. The old key is kept beside it (secret.key.previous): older backups of the
database need it. --prepare only makes the next key, to be copied to other control planes first.
END
    ;;
    backup) cat <<'END'
./evenkeel backup [--state DIR] [FILE]

Writes database, tokens, the key of the stored secrets and the node's snapshot into one tar that only you can read, while
everything runs. FILE must not be there yet; default: evenkeel-TIME.tar.
END
    ;;
    restore) cat <<'END'
./evenkeel restore [--state DIR] [--force] FILE
./evenkeel restore [--state DIR] [--force] --undo

Puts a backup into an empty state directory; ./evenkeel up brings it up then, with its ports and revision.

  --force   replace the data that is there; what runs goes on until the backup is ready to take its place, and is stopped then
  --undo    put back what the last restore replaced (it keeps that in before-restore), and keep what is there now instead
END
    ;;
    build) cat <<'END'
./evenkeel build

Builds the release that `up` runs, into .evenkeel-build/release. Sources that have not changed are not built again.
END
    ;;
    test) cat <<'END'
./evenkeel test [PART…]

Runs the tests; the last line reads `N passed, N failed`. Parts (default: all):
  lint       luacheck, shellcheck, dotnet format, the systemd units
  lua        the data plane's units (busted)
  unit       the control plane's and the provider simulator's units, on a real PostgreSQL (xunit)
  launcher   this command's own promises
  e2e        whole stacks behind a real client (xunit)
  browser    the dashboard in a real, headless Chromium (xunit, Playwright)
  failover   the fault catalogue, judged and tabled (./evenkeel test failover --help tells its options)
  chaos      parts are killed, paused and starved under load (./evenkeel test chaos --help; the short form among all)
  bench      each benchmark for seconds: does it work?

Only when it is named:
  containers the compose file with podman: builds the images, brings all up, kills parts; then the systemd units on a machine that
             boots (root; some minutes). --purge removes the images that it keeps
END
    ;;
    *) cat <<'END'
Evenkeel: an LLM gateway that keeps your API traffic on an even keel.

  ./evenkeel up          bring it up (the demo, or --config FILE)
  ./evenkeel down        take it down; the data is kept
  ./evenkeel status      which parts run, and which revision
  ./evenkeel logs        what the parts say (-f follows)
  ./evenkeel apply FILE  publish a configuration
  ./evenkeel client      callers with keys: list, add, rotate, off, on, remove
  ./evenkeel token       make, list and revoke tokens for the REST API and the dashboard
  ./evenkeel node        nodes on other machines: list, let one enrol, remove one
  ./evenkeel rotate-secret-key   a new key for the stored secrets
  ./evenkeel backup      write database and secrets into one file
  ./evenkeel restore     put such a file in place
  ./evenkeel test        run all tests
  ./evenkeel bench       measure what the gateway costs, next to its peers
  ./evenkeel build       build the release that `up` runs

./evenkeel COMMAND --help tells more.
END
    ;;
  esac
}
