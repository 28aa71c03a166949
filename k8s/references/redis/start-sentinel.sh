#!/bin/sh
# Starts one of the three Sentinels. It begins with the primary that the others or a server name, so a Sentinel that comes back watches the right one.
set -eu
: "${SELF:?}" "${PORT:?}" "${PEERS:?}" "${SENTINELS:?}" "${SERVICE:?}" "${DATA:?}" "${FIRST:?}" "${PASSWORD_FILE:?}"
PASSWORD=$(cat "$PASSWORD_FILE")
export REDISCLI_AUTH="$PASSWORD"

ask() {
  address=$1; shift
  timeout 2 valkey-cli -h "${address%:*}" -p "${address##*:}" "$@" 2>/dev/null || true
}

find_primary() {
  for sentinel in $SENTINELS; do
    [ "$sentinel" != "$SELF:$PORT" ] || continue
    found=$(ask "$sentinel" sentinel get-master-addr-by-name "$SERVICE" | tr '\n' ':' | sed 's/:$//')
    case $found in *:*) echo "$found"; return ;; esac
  done
  for peer in $PEERS; do
    if [ "$(ask "$peer" role | head -n 1)" = master ]; then echo "$peer"; return; fi
  done
}

primary=
until [ -n "$primary" ]; do
  primary=$(find_primary)
  [ -n "$primary" ] || sleep 1
done
cat > "$DATA/sentinel.conf" <<EOF
port $PORT
dir $DATA
protected-mode no
requirepass "$PASSWORD"
sentinel sentinel-pass "$PASSWORD"
sentinel resolve-hostnames yes
sentinel announce-hostnames yes
sentinel announce-ip $SELF
sentinel announce-port $PORT
sentinel monitor $SERVICE ${primary%:*} ${primary##*:} 2
sentinel auth-pass $SERVICE "$PASSWORD"
sentinel down-after-milliseconds $SERVICE 5000
sentinel failover-timeout $SERVICE 15000
sentinel parallel-syncs $SERVICE 1
EOF
exec valkey-sentinel "$DATA/sentinel.conf"
