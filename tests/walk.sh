#!/usr/bin/env bash
# Walks through everything a user can do on one node, with curl, against the real binary.
#
#   tests/walk.sh path/to/tertulia
#
# Each step says what it expects; the first that differs ends the walk with exit code 1. The walk
# runs in a folder of its own on ports of its own and takes the node down at the end.
set -u
bin=$(realpath "${1:?the path of the binary}")
port=${WALK_PORT:-17420}
work=$(mktemp -d)
cd "$work" || exit 1
steps=0
pid=

stop() { [ -n "$pid" ] && kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null; pid=; }
trap 'stop; rm -rf "$work"' EXIT
die() { echo "walk: step $steps: $*" >&2; tail -n 20 node.log >&2; exit 1; }

# start: runs the node on the folder `data` and waits until it is ready.
start() {
  local began now
  began=$(date +%s%N)
  TERTULIA_DATA_DIR=data TERTULIA_HTTP__LISTEN=127.0.0.1:$port "$bin" serve >>node.out 2>>node.log &
  pid=$!
  for _ in $(seq 400); do
    if curl -sf --cacert data/ca.pem "https://localhost:$port/readyz" >/dev/null 2>&1; then
      now=$(date +%s%N)
      ready_ms=$(((now - began) / 1000000))
      return
    fi
    kill -0 "$pid" 2>/dev/null || die "the node ended while starting"
    read -rt 0.02 <> <(:) || :
  done
  die "the node is not ready after 8 s"
}

# call METHOD PATH [curl arguments]: sets $status, $body, $head.
call() {
  local method=$1 path=$2
  shift 2
  steps=$((steps + 1))
  status=$(curl -s -o body -D head -w '%{http_code}' --cacert data/ca.pem -X "$method" \
    "https://localhost:$port$path" "$@") || die "$method $path: curl failed ($?)"
  body=$(cat body)
}
json() { call "$1" "$2" -H 'content-type: application/json' -d "$3" "${@:4}"; }
want() { [ "$status" = "$1" ] || die "wanted status $1, got $status: $body"; }
field() { jq -er "$1" <body || die "no $1 in $body"; }
is() {
  local got
  got=$(jq -r "$1" <body)
  [ "$got" = "$2" ] || die "wanted $1 = $2, got $got in $body"
}
problem() { want "$1"; is .code "$2"; grep -qi '^content-type: application/problem+json' head || die "no problem"; }

echo "1. start on an empty folder"
start
echo "   ready after $ready_ms ms"
for file in ca.pem secret tertulia.redb pid; do [ -e "data/$file" ] || die "no data/$file"; done
[ "$(stat -c %a data)" = 700 ] || die "the folder is not private"
[ "$(cat data/pid)" = "$pid" ] || die "the pid file names another process"
grep -q "https://.*:$port" node.out || die "the start does not say where the API is"
grep -q "/docs/" node.out || die "the start does not say where Swagger UI is"
grep -q "ca.pem" node.out || die "the start does not say where the CA is"
grep -q "curl" node.out || die "the start shows no curl"
call GET /livez; want 200; is .status live
call GET /readyz; want 200; is .ready true
call GET /nowhere; problem 404 not-found
call POST /livez; problem 405 method-not-allowed; grep -qi '^allow: .*GET' head || die "no Allow"

echo "2. users, sessions, API keys, Basic"
alice=(-u 'alice:walk through the whole house')
bob=(-u 'bob:another long phrase')
json POST /v1/users '{"username":"alice","password":"walk through the whole house"}'; want 201; is '.roles[0]' admin
json POST /v1/users '{"username":"alice","password":"walk through the whole house"}'; problem 409 name-taken
json POST /v1/users '{"username":"bob","password":"another long phrase"}'; want 201; is '.roles|length' 0
json POST /v1/users '{"username":"me","password":"another long phrase"}'; problem 422 validation; is '.errors[0].field' username
json POST /v1/users '{"username":"carol","password":"short"}'; problem 422 validation; is '.errors[0].field' password
json POST /v1/users '{"username":"carol","password":"long enough","extra":1}'; problem 422 validation
json POST /v1/users 'not json'; problem 400 malformed
call GET /v1/users/me; problem 401 unauthenticated; grep -qi '^www-authenticate: Bearer' head || die "no challenge"
call GET /v1/users/me "${alice[@]}"; want 200; is .username alice
call GET /v1/users/me -u 'alice:wrong password'; problem 401 unauthenticated
call GET /v1/users "${bob[@]}"; problem 403 forbidden
call GET '/v1/users?prefix=a' "${alice[@]}"; want 200; is '.items|length' 1
json POST /v1/sessions '{"username":"bob","password":"wrong password"}'; problem 401 bad-credentials
json POST /v1/sessions '{"username":"nobody","password":"wrong password"}'; problem 401 bad-credentials
json POST /v1/sessions '{"username":"bob","password":"another long phrase"}'; want 201
token=$(field .token); case $token in tts_*) ;; *) die "a session token begins tts_" ;; esac
session=(-H "authorization: Bearer $token")
call GET /v1/users/me "${session[@]}"; want 200; is .username bob
call GET /v1/sessions "${session[@]}"; want 200; is '.items[0].current' true
json POST /v1/api-keys '{"name":"worker"}' "${session[@]}"; want 201
secret=$(field .secret); key_id=$(field .api_key_id); case $secret in ttk_*) ;; *) die "an API key begins ttk_" ;; esac
key=(-H "authorization: Bearer $secret")
call GET /v1/api-keys "${session[@]}"; want 200; is '.items[0].name' worker; is '.items[0].secret' null
call GET /v1/users/me "${key[@]}"; want 200
call DELETE "/v1/api-keys/$key_id" "${session[@]}"; want 204
call GET /v1/users/me "${key[@]}"; problem 401 unauthenticated
json PATCH /v1/users/bob '{"password":"a third long phrase","current_password":"wrong one here"}' "${session[@]}"; [ "$status" != 200 ] || die "a wrong current password changed it"
json PATCH /v1/users/bob '{"password":"a third long phrase","current_password":"another long phrase"}' "${session[@]}"; want 200
call GET /v1/users/me "${bob[@]}"; problem 401 unauthenticated
bob=(-u 'bob:a third long phrase')
call GET /v1/users/me "${bob[@]}"; want 200
call GET /v1/users/me "${session[@]}"; want 200
call DELETE /v1/sessions/current "${session[@]}"; want 204
call GET /v1/users/me "${session[@]}"; problem 401 unauthenticated

echo "3. queues and grants"
json PUT /v1/queues/orders '{}' "${alice[@]}"; want 201; is .owner alice; is .config.lease_seconds 30
etag=$(field .etag)
json PUT /v1/queues/orders '{"lease_seconds":30}' "${alice[@]}"; want 200
json PUT /v1/queues/orders '{"lease_seconds":31}' "${alice[@]}"; problem 409 config-differs
json PUT /v1/queues/orders '{}' "${bob[@]}"; problem 409 name-taken
json PUT '/v1/queues/-bad' '{}' "${alice[@]}"; problem 422 validation
json PUT /v1/queues/orders2 '{"lease_secs":3}' "${alice[@]}"; problem 422 validation
call GET /v1/queues/orders "${bob[@]}"; problem 403 forbidden
call GET /v1/queues/missing "${alice[@]}"; problem 404 queue-not-found
json PATCH /v1/queues/orders '{"lease_seconds":60}' "${alice[@]}" -H 'if-match: "stale"'; problem 412 precondition-failed
json PATCH /v1/queues/orders '{"lease_seconds":60}' "${alice[@]}" -H "if-match: \"$etag\""; want 200; is .config.lease_seconds 60
settings='{"lease_seconds":40,"max_message_bytes":2000,"replicas":1,"retention_seconds":3600,"delay_seconds":60,"max_failures":3,"backoff_min_seconds":1,"backoff_max_seconds":8,"dedup_seconds":0,"max_in_flight":1,"max_bytes":1000000,"ordering":"group","paused":true}'
json PUT /v1/queues/settings "$settings" "${alice[@]}"; want 201
[ "$(jq -cS .config <body)" = "$(jq -cS . <<<"$settings")" ] || die "other settings than were put: $body"
json PUT /v1/queues/settings "$(jq -c .config <body)" "${alice[@]}"; want 200
json PUT /v1/queues/settings '{"ordering":"best_effort","paused":false}' "${alice[@]}"; problem 409 config-differs; is '[.errors[].field]|join(" ")' 'ordering paused'
json PATCH /v1/queues/settings '{"ordering":"best_effort"}' "${alice[@]}"; problem 422 validation; is '.errors[0].field' ordering
json PATCH /v1/queues/settings '{"delay_seconds":3601}' "${alice[@]}"; problem 422 validation; is '.errors[0].field' delay_seconds
json PATCH /v1/queues/settings '{"delay_seconds":0,"paused":false,"max_bytes":1}' "${alice[@]}"; want 200; is .config.paused false; is .config.retention_seconds 3600
json POST /v1/queues/settings/messages '{"messages":[{"body":"too much"}]}' "${alice[@]}"; problem 429 quota
json PATCH /v1/queues/settings '{"max_bytes":0}' "${alice[@]}"; want 200
json POST /v1/queues/settings/messages '{"messages":[{"body":"a"},{"body":"b"}]}' "${alice[@]}"; want 201
json POST /v1/queues/settings/leases '{"max_messages":2}' "${alice[@]}"; want 200; is '.messages|length' 1
json POST /v1/queues/settings/leases '{}' "${alice[@]}"; problem 429 in-flight-limit
call DELETE /v1/queues/settings "${alice[@]}"; want 204
for n in 1 2 3; do json PUT /v1/queues/list-$n '{}' "${alice[@]}"; want 201; done
call GET '/v1/queues?prefix=list-&limit=2' "${alice[@]}"; want 200; is '.items|length' 2; cursor=$(field .next_cursor)
call GET "/v1/queues?prefix=list-&limit=2&cursor=$cursor" "${alice[@]}"; want 200; is '.items[0].name' list-3; is .next_cursor null
call GET '/v1/queues?limit=0' "${alice[@]}"; problem 422 validation; is '.errors[0].field' query.limit
call GET '/v1/queues?cursor=damaged' "${alice[@]}"; problem 422 validation
json PUT /v1/queues/orders/grants/bob '{"rights":["send"]}' "${alice[@]}"; want 200
json PUT /v1/queues/orders/grants/nobody '{"rights":["send"]}' "${alice[@]}"; problem 404 user-not-found
call GET /v1/queues/orders/grants "${alice[@]}"; want 200; is '.items[0].username' bob
json POST /v1/queues/orders/messages '{"messages":[{"body":"from bob"}]}' "${bob[@]}"; want 201
json POST /v1/queues/orders/leases '{}' "${bob[@]}"; problem 403 forbidden
call DELETE /v1/queues/orders "${bob[@]}"; problem 403 not-owner
call DELETE /v1/queues/orders/grants/bob "${alice[@]}"; want 204
json POST /v1/queues/orders/messages '{"messages":[{"body":"from bob"}]}' "${bob[@]}"; problem 403 forbidden

echo "4. send, receive, extend, release, acknowledge, settle"
json POST /v1/queues/orders/leases '{}' "${alice[@]}"; want 200; is '.messages[0].sender' bob
receipt=$(field '.messages[0].receipt'); fence=$(field '.messages[0].fence')
call DELETE "/v1/queues/orders/leases/$receipt" "${alice[@]}"; want 204
call DELETE "/v1/queues/orders/leases/$receipt" "${alice[@]}"; want 204
json POST '/v1/queues/orders/messages?durability=all' '{"messages":[{"body":"one","attributes":{"kind":"velvet attribute"}},{"body_base64":"AAEC","content_type":"application/x-bytes"}]}' "${alice[@]}"
want 201; is '.results|length' 2; is .failed_count 0; is '.results[0].status' stored; is '.results[1].replicas' 1
json POST /v1/queues/orders/messages '{"messages":[{"body":"x","body_base64":"AA=="}]}' "${alice[@]}"; problem 422 validation
json POST /v1/queues/orders/messages '{"messages":[]}' "${alice[@]}"; problem 422 validation
json POST /v1/queues/orders/leases '{"max_messages":10,"lease_seconds":600}' "${alice[@]}"; want 200; is '.messages|length' 2
is '.messages[0].body' one; is '.messages[0].attributes.kind' 'velvet attribute'; is '.messages[1].body_base64' AAEC; is '.messages[1].content_type' application/x-bytes
is '.messages[0].receive_count' 1; is '.messages[0].failure_count' 0
[ "$(field '.messages[0].fence')" -gt 0 ] || die "no fence"
first=$(field '.messages[0].receipt'); second=$(field '.messages[1].receipt')
json PATCH "/v1/queues/orders/leases/$first" '{"lease_seconds":900}' "${alice[@]}"; want 200; is .receipt "$first"
[ "$(field .lease_remaining_ms)" -gt 890000 ] || die "not extended"
json POST "/v1/queues/orders/leases/$first/releases" '{"outcome":"failed"}' "${alice[@]}"; want 204
call DELETE "/v1/queues/orders/leases/$first" "${alice[@]}"; problem 409 lease-lost
call DELETE /v1/queues/orders/leases/AAAA "${alice[@]}"; problem 422 receipt-invalid
json POST /v1/queues/orders/leases '{}' "${alice[@]}"; want 200; is '.messages[0].receive_count' 2; is '.messages[0].failure_count' 1
third=$(field '.messages[0].receipt')
json POST /v1/queues/orders/settlements "{\"ack\":[\"$second\",\"AAAA\"],\"extend\":[{\"receipt\":\"$third\",\"lease_seconds\":60}],\"release\":[{\"receipt\":\"$first\"}]}" "${alice[@]}"
want 200; is '.results[0].status' 'done'; is '.results[1].status' invalid; is '.results[2].status' 'done'; is '.results[3].status' lost; is .failed_count 2
call DELETE "/v1/queues/orders/leases/$third" "${alice[@]}"; want 204
json POST /v1/queues/orders/leases '{}' "${alice[@]}"; want 200; is '.messages|length' 0
began=$(date +%s%N)
(read -rt 0.5 <> <(:); curl -s --cacert data/ca.pem "${alice[@]}" -H 'content-type: application/json' -d '{"messages":[{"body":"wake up"}]}' "https://localhost:$port/v1/queues/orders/messages" >/dev/null) &
json POST /v1/queues/orders/leases '{"wait_seconds":20,"auto_ack":true}' "${alice[@]}"; want 200; is '.messages[0].body' 'wake up'; is '.messages[0].receipt' null
[ $((($(date +%s%N) - began) / 1000000)) -lt 10000 ] || die "a long poll is not woken"
json POST /v1/queues/orders/leases '{}' "${alice[@]}"; want 200; is '.messages|length' 0
json POST /v1/queues/orders/messages '{"messages":[{"body":"pushed"}]}' "${alice[@]}"; want 201
curl -sN --max-time 2 -o events --cacert data/ca.pem "${alice[@]}" "https://localhost:$port/v1/queues/orders/stream"
[ $? = 28 ] || die "the event stream ended by itself"
grep -q '^event: message$' events && sed -n 's/^data: //p' events >body || die "nothing is pushed"
is .body pushed; is .failure_count 0
json POST /v1/queues/orders/leases '{"wait_seconds":10}' "${alice[@]}"; want 200; is '.messages[0].failure_count' 1
call DELETE "/v1/queues/orders/leases/$(field '.messages[0].receipt')" "${alice[@]}"; want 204

key=(-H 'idempotency-key: order-1')
json POST /v1/queues/orders/messages '{"messages":[{"body":"once","routing_key":"a.b","group":"g"}]}' "${alice[@]}" "${key[@]}"; want 201; is '.results[0].status' stored; id=$(field '.results[0].id')
json POST /v1/queues/orders/messages '{"messages":[{"body":"once","routing_key":"a.b","group":"g"}]}' "${alice[@]}" "${key[@]}"; want 201; is '.results[0].status' duplicate; is '.results[0].id' "$id"
json POST /v1/queues/orders/messages '{"messages":[{"body":"twice"}]}' "${alice[@]}" "${key[@]}"; problem 422 idempotency-mismatch
json POST /v1/queues/orders/leases '{"lease_seconds":600}' "${alice[@]}" "${key[@]}"; want 200; is '.messages[0].id' "$id"; is '.messages[0].routing_key' a.b; is '.messages[0].group' g
first=$(field '.messages[0].fence')
json POST /v1/queues/orders/leases '{"lease_seconds":600}' "${alice[@]}" "${key[@]}"; want 200; is '.messages[0].fence' "$first"
receipt=$(field '.messages[0].receipt')
json POST "/v1/queues/orders/leases/$receipt/releases" '{"outcome":"poison","reason":"a very private reason"}' "${alice[@]}"; want 204
json POST /v1/queues/orders/leases '{}' "${alice[@]}"; want 200; is '.messages|length' 0
call GET '/v1/queues/orders/messages?state=dead' "${alice[@]}"; want 200; is '.items|length' 1; is '.items[0].id' "$id"; is '.items[0].body' null; is '.items[0].dead_letter.reason' poison; is '.items[0].dead_letter.detail' 'a very private reason'
call GET "/v1/queues/orders/messages/$id" "${alice[@]}"; want 200; is .body once; is .state dead; is .dead_letter.detail 'a very private reason'; field .explanation >/dev/null
call GET /v1/queues/orders "${alice[@]}"; want 200; is .stats.dead 1; is .stats.ready 0; is '.stats.replicas|length' 1
call GET '/v1/queues?prefix=orders' "${alice[@]}"; want 200; is '.items[0].stats' null
call GET '/v1/queues?prefix=orders&include=stats' "${alice[@]}"; want 200; is '.items[0].stats.dead' 1
json POST /v1/queues/orders/redrives '{}' "${alice[@]}"; want 200; is .moved_count 1; is .remaining_count 0
json POST /v1/queues/orders/leases '{}' "${alice[@]}"; want 200; is '.messages[0].id' "$id"; is '.messages[0].failure_count' 0
receipt=$(field '.messages[0].receipt')
began=$(date +%s%N)
(read -rt 0.5 <> <(:); curl -s --cacert data/ca.pem "${alice[@]}" -H 'content-type: application/json' -d '{"outcome":"poison"}' "https://localhost:$port/v1/queues/orders/leases/$receipt/releases" >/dev/null) &
json POST /v1/queues/orders/leases '{"from":"dead","wait_seconds":20}' "${alice[@]}"; want 200; is '.messages[0].id' "$id"; is '.messages[0].dead_letter.reason' poison; is '.messages[0].dead_letter.queue' orders; is '.messages[0].dead_letter.detail' null
[ $((($(date +%s%N) - began) / 1000000)) -lt 10000 ] || die "who waits for the dead is not woken"
receipt=$(field '.messages[0].receipt')
call DELETE "/v1/queues/orders/leases/$receipt" "${alice[@]}"; want 204

json POST /v1/queues/orders/messages '{"messages":[{"body":"in an hour","delay_seconds":3600},{"body":"now"}]}' "${alice[@]}"; want 201; id=$(field '.results[0].id')
call GET "/v1/queues/orders/messages?state=delayed&include=body" "${alice[@]}"; want 200; is '.items[0].id' "$id"; is '.items[0].body' 'in an hour'; field '.items[0].ready_at' >/dev/null
call DELETE "/v1/queues/orders/messages/$id" "${alice[@]}"; want 204
call GET "/v1/queues/orders/messages/$id" "${alice[@]}"; problem 404 message-not-found
call DELETE "/v1/queues/orders/messages/$id" "${alice[@]}"; want 204
call GET /v1/queues/orders/messages/nonsense "${alice[@]}"; problem 404 message-not-found
call GET /v1/queues/orders/messages "${bob[@]}"; problem 403 forbidden
call DELETE /v1/queues/orders/messages "${alice[@]}"; want 200; is .purged_count 1
json POST /v1/queues/orders/leases '{}' "${alice[@]}"; want 200; is '.messages|length' 0

echo "4b. topics and subscriptions"
json PUT /v1/topics/news '{}' "${alice[@]}"; want 201; is .owner alice; is .subscription_count 0; is .config.retention_seconds 1209600
json PUT /v1/topics/news '{"dedup_seconds":600}' "${alice[@]}"; want 200
json PUT /v1/topics/news '{"dedup_seconds":5}' "${alice[@]}"; problem 409 config-differs
json PUT /v1/topics/news/subscriptions/bobs '{}' "${bob[@]}"; problem 403 forbidden
json PUT '/v1/topics/news/grants/*' '{"rights":["subscribe"]}' "${alice[@]}"; want 200
json PUT /v1/topics/news/subscriptions/bobs '{"filter":{"routing_key":"sports.#"}}' "${bob[@]}"; want 201; is .owner bob; is .status active; is .config.filter.routing_key 'sports.#'
json PUT /v1/topics/news/subscriptions/links '{"deliver_to":"list-3"}' "${alice[@]}"; want 201
call GET /v1/queues/list-3 "${alice[@]}"; want 200; is '.linked_from[0].subscription' links
json POST /v1/topics/news/messages '{"messages":[{"body":"goal","routing_key":"sports.football"},{"body":"rain","routing_key":"weather"}]}' "${alice[@]}"; want 201; is '.results[0].matched_subscriptions' 2; is '.results[1].matched_subscriptions' 1
json POST '/v1/topics/news/messages?require_route=true' '{"messages":[{"body":"x"}]}' "${bob[@]}"; problem 403 forbidden
json POST /v1/queues/list-3/leases '{"max_messages":10}' "${alice[@]}"; want 200; is '.messages|length' 2; is '.messages[0].topic' news
json POST /v1/topics/news/subscriptions/links/leases '{}' "${alice[@]}"; problem 409 delivers-to-queue
json POST /v1/topics/news/subscriptions/bobs/leases '{}' "${bob[@]}"; want 200; is '.messages[0].body' goal; receipt=$(field '.messages[0].receipt')
json PATCH "/v1/topics/news/subscriptions/bobs/leases/$receipt" '{"lease_seconds":60}' "${bob[@]}"; want 200
call DELETE "/v1/topics/news/subscriptions/bobs/leases/$receipt" "${bob[@]}"; want 204
json POST /v1/topics/news/subscriptions/bobs/leases '{}' "${bob[@]}"; want 200; is '.messages|length' 0
call GET /v1/topics/news/subscriptions "${alice[@]}"; want 200; is '.items|length' 2
call GET /v1/topics/news/subscriptions "${bob[@]}"; want 200; is '.items|length' 1
json POST /v1/topics/news/messages '{"messages":[{"body":"late goal","routing_key":"sports"}]}' "${alice[@]}"; want 201; id=$(field '.results[0].id')
call GET '/v1/topics/news/subscriptions/bobs/messages?include=body' "${bob[@]}"; want 200; is '.items[0].body' 'late goal'; is '.items[0].state' ready
call GET /v1/topics/news/subscriptions/bobs "${bob[@]}"; want 200; is .stats.ready 1; is .stats.dead 0; is '.stats.replicas|length' 1
call GET /v1/topics/news "${alice[@]}"; want 200; is '.stats.messages|. > 0' true; is '.stats.bytes|. > 0' true
call GET '/v1/topics?prefix=news' "${alice[@]}"; want 200; is '.items[0].stats' null
call GET '/v1/topics?prefix=news&include=stats' "${alice[@]}"; want 200; is '.items[0].stats.messages|. > 0' true
call GET "/v1/topics/news/subscriptions/bobs/messages/$id" "${bob[@]}"; want 200; is .body 'late goal'
call DELETE /v1/topics/news/subscriptions/bobs/messages "${bob[@]}"; want 200; is .purged_count 1
call GET "/v1/topics/news/subscriptions/bobs/messages/$id" "${bob[@]}"; problem 404 message-not-found
call DELETE /v1/topics/news "${bob[@]}"; problem 403 not-owner
call DELETE '/v1/topics/news/grants/*' "${alice[@]}"; want 204
call GET /v1/topics/news/subscriptions/bobs "${bob[@]}"; want 200; is .status suspended

echo "5. the document and Swagger UI"
call GET /openapi.json; want 200; cp body spec.json
"$bin" openapi >printed.json || die "tertulia openapi failed"
cmp -s spec.json printed.json || die "tertulia openapi prints another document"
call GET /openapi.yaml; want 200
call GET /docs; case $status in 30*) ;; *) die "/docs does not redirect" ;; esac
call GET /docs/; want 200; grep -q SwaggerUIBundle body || die "no Swagger UI"
call GET /metrics; want 200; grep -q '^tertulia_commits_total' body || die "no metrics"
grep -q orders body && die "a queue's name in public metrics"
moved="http_requests_total http_request_seconds_count http_connections sends_total receives_total
  messages_sent_total messages_received_total leases_total settles_total password_hashes_total
  logins_total commits_total commit_rows_count commit_bytes_count fsync_seconds_count
  store_free_bytes build_info"
for metric in $moved; do
  grep -E "^tertulia_$metric(\{[^}]*\})? [0-9.e+]*[1-9]" body >/dev/null || die "the metric tertulia_$metric has not moved"
done

echo "5b. the routes of the original"
call GET /mom/openapi.json; want 200; is '.info.title' 'Tertulia: MOM routes'
call GET /mom/docs; case $status in 30*) ;; *) die "/mom/docs does not redirect" ;; esac
call GET /mom/docs/; want 200; grep -q SwaggerUIBundle body || die "no Swagger UI"
mom_ada=(-H "authorization: Bearer none")
mom() { call "$1" "$2" "${mom_ada[@]}" "${@:3}"; }
mom POST /createQueue; want 401
call POST /registerUser -d username=ada --data-urlencode 'password=a fourth long phrase'; want 201
mom_ada=(-H "authorization: Bearer $(field .token)")
mom POST /createQueue; want 400
mom POST '/createQueue?nameQueue=adas'; want 200
mom POST '/createQueue?nameQueue=adas'; want 400
mom POST '/createTopic?nameTopic=adas'; want 200
mom POST '/vinculateQueue?nameExchange=sales&nameQueue=adas'; want 200
mom POST '/subscribeToTopic?nameTopic=adas&nameQueue=adas'; want 409
mom POST '/sendMessage?nameExchange=sales&message=from+afar'; want 200; is .delivered_to 1
mom POST '/sendMessage?nameExchange=none&message=x'; want 400
mom POST '/publishMessage?nameTopic=adas&message=x'; want 200; is .delivered_to 0
mom GET /getQueues; want 200; is '.queues[0].associated' sales
mom GET /getTopics; want 200; is '.topics[0].nameTopic' adas
mom GET '/consumeMessage?nameQueue=adas' -H 'accept: text/plain'; want 200; [ "$body" = "from afar" ] || die "got $body"
mom GET '/consumeMessage?nameQueue=adas'; want 200; is .empty true
mom DELETE '/deleteQueue?nameQueue=orders'; want 403
mom DELETE '/deleteTopic?nameTopic=adas'; want 200
mom DELETE '/deleteQueue?nameQueue=adas'; want 200
mom POST /logoutUser; want 200
mom GET /getQueues; want 401

# Not settled, so that it is still on the disk at the end.
json PUT /v1/queues/graves '{}' "${alice[@]}"; want 201
json POST /v1/queues/graves/messages '{"messages":[{"body":"x"}]}' "${alice[@]}"; want 201
json POST /v1/queues/graves/leases '{}' "${alice[@]}"; want 200
json POST /v1/queues/graves/settlements "{\"release\":[{\"receipt\":\"$(field '.messages[0].receipt')\",\"outcome\":\"poison\",\"reason\":\"a very private reason\"}]}" "${alice[@]}"; want 200; is '.results[0].status' 'done'

echo "6. stop, start again, everything is still there"
json POST /v1/queues/orders/messages '{"messages":[{"body":"kept over a restart"}]}' "${alice[@]}"; want 201
kill -TERM "$pid"; wait "$pid"; code=$?; [ $code = 0 ] || die "SIGTERM ended it with $code"
pid=; start
json POST /v1/queues/orders/leases '{}' "${alice[@]}"; want 200; is '.messages[0].body' 'kept over a restart'
[ "$(field '.messages[0].fence')" -gt "$fence" ] || die "the fence fell"
kept=$(field '.messages[0].receipt')
kill -KILL "$pid"; wait "$pid" 2>/dev/null; pid=; start
call DELETE "/v1/queues/orders/leases/$kept" "${alice[@]}"; want 204

call GET '/v1/queues/graves/messages?state=dead' "${alice[@]}"; want 200; is '.items[0].dead_letter.detail' 'a very private reason'

echo "7. delete"
json POST /v1/queues/list-1/messages '{"messages":[{"body":"x"}]}' "${alice[@]}"; want 201
call GET /v1/queues/list-1 "${alice[@]}"; before=$(field .etag)
call DELETE '/v1/queues/list-1?messages=refuse' "${alice[@]}"; problem 409 not-empty
call GET /v1/queues/list-1 "${alice[@]}"; is .etag "$before"
call DELETE '/v1/queues/list-1?messages=drain' "${alice[@]}"; want 202
call GET /v1/queues/list-1 "${alice[@]}"; want 200; is .state draining
json POST /v1/queues/list-1/messages '{"messages":[{"body":"x"}]}' "${alice[@]}"; problem 409 draining
call DELETE '/v1/queues/list-1?messages=refuse' "${alice[@]}"; problem 409 not-empty
call GET /v1/queues/list-1 "${alice[@]}"; is .state draining
json POST /v1/queues/list-1/leases '{"auto_ack":true}' "${alice[@]}"; want 200; is '.messages|length' 1
for _ in $(seq 50); do call GET /v1/queues/list-1 "${alice[@]}"; [ "$status" = 404 ] && break; read -rt 0.1 <> <(:) || :; done
want 404
call DELETE '/v1/queues/list-2?messages=refuse' "${alice[@]}"; want 204
call GET /v1/topics/news "${alice[@]}"; want 200; is .subscription_count 2
call DELETE /v1/queues/list-3 "${alice[@]}"; want 204
call GET /v1/topics/news/subscriptions/links "${alice[@]}"; problem 404 subscription-not-found
json PUT /v1/topics/gone '{}' "${alice[@]}"; want 201
json PUT /v1/topics/gone/subscriptions/some '{}' "${alice[@]}"; want 201
call DELETE '/v1/topics/gone?messages=refuse' "${alice[@]}"; want 204
json PUT /v1/topics/gone '{}' "${alice[@]}"; want 201; is .subscription_count 0
json PUT /v1/queues/list-3 '{}' "${alice[@]}"; want 201
json POST /v1/queues/list-3/leases '{}' "${alice[@]}"; want 200; is '.messages|length' 0
call DELETE /v1/users/alice "${alice[@]}"; [ "$status" = 409 ] || [ "$status" = 403 ] || die "the owner of queues was deleted: $status"
call DELETE /v1/users/bob "${alice[@]}"; want 204
call GET /v1/users/me "${bob[@]}"; problem 401 unauthenticated

echo "8. nothing that should be sealed lies open"
for text in 'kept over a restart' 'wake up' 'velvet attribute' 'a very private reason' 'walk through the whole house' 'a third long phrase' 'a fourth long phrase' "$token" "$secret" "$kept"; do
  grep -rqF -- "$text" data node.log node.out && die "found in the data folder or the logs: $text"
done
call GET /v1/queues/orders "${alice[@]}" -H "x-request-id: walk-$$"; want 200
grep -q "walk-$$" node.log || die "the log does not name the request"

kill -INT "$pid"; wait "$pid"; code=$?; [ $code = 0 ] || die "SIGINT ended it with $code"; pid=
echo "walk: $steps requests, all as expected"
