#!/bin/sh
# Starts one of the three servers. It never believes to be the primary only because it was: another one may have been chosen meanwhile.
# It asks the Sentinels for the primary, then its peers. If there is none anywhere, pod 0 becomes one: at once in its first start, with an empty
# disk, and otherwise after four times as long, when all pods were away together.
set -eu
: "${SELF:?}" "${PORT:?}" "${PEERS:?}" "${SENTINELS:?}" "${SERVICE:?}" "${DATA:?}" "${FIRST:?}" "${PASSWORD_FILE:?}"
PASSWORD=$(cat "$PASSWORD_FILE")
export REDISCLI_AUTH="$PASSWORD"
PATIENCE=${PATIENCE:-15}

ask() { # host:port command...
  address=$1; shift
  timeout 2 valkey-cli -h "${address%:*}" -p "${address##*:}" "$@" 2>/dev/null || true
}

role_of() { ask "$1" role | head -n 1; }

sentinels_say() { # "host:port" of a primary that answers as one and is not this pod
  for sentinel in $SENTINELS; do
    found=$(ask "$sentinel" sentinel get-master-addr-by-name "$SERVICE" | tr '\n' ':' | sed 's/:$//')
    case $found in
      "$SELF:$PORT"|"") ;;
      *:*) if [ "$(role_of "$found")" = master ]; then echo "$found"; return; fi ;;
    esac
  done
}

peers_say() {
  for peer in $PEERS; do
    if [ "$peer" != "$SELF:$PORT" ] && [ "$(role_of "$peer")" = master ]; then echo "$peer"; return; fi
  done
}

chosen_by_sentinels() { # how many Sentinels name this pod
  count=0
  for sentinel in $SENTINELS; do
    if [ "$(ask "$sentinel" sentinel get-master-addr-by-name "$SERVICE" | tr '\n' ':')" = "$SELF:$PORT:" ]; then count=$((count + 1)); fi
  done
  echo "$count"
}

primary=
waited=0
while :; do
  primary=$(sentinels_say)
  [ -n "$primary" ] || primary=$(peers_say)
  [ -z "$primary" ] || break
  # Most Sentinels still name this pod and no peer is a primary: it was away for less time than a failover takes.
  if [ "$waited" -ge "$PATIENCE" ] && [ "$(chosen_by_sentinels)" -ge 2 ]; then break; fi
  if [ "$SELF:$PORT" = "$FIRST" ]; then
    if [ "$waited" -ge "$PATIENCE" ] && [ ! -e "$DATA/started" ]; then break; fi
    if [ "$waited" -ge $((4 * PATIENCE)) ]; then break; fi
  fi
  waited=$((waited + 1))
  sleep 1
done
touch "$DATA/started"

set -- --port "$PORT" --dir "$DATA" --protected-mode no \
  --replica-announce-ip "$SELF" --replica-announce-port "$PORT" --appendonly yes --appendfsync everysec \
  --save "900 1 300 100" --maxmemory-policy noeviction --min-replicas-to-write 1 --min-replicas-max-lag 10 --repl-diskless-sync yes
if [ -n "$primary" ]; then set -- "$@" --replicaof "${primary%:*} ${primary##*:}"; fi
echo "starting as ${primary:+a replica of }${primary:-the primary}"
# Passwords are read from standard input, so the list of processes does not show them.
exec valkey-server - "$@" <<EOF
requirepass "$PASSWORD"
masterauth "$PASSWORD"
EOF
