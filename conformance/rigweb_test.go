package conformance_test

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	keyholder "github.com/fds-keyholder/keyholder"
)

func thumbprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func peer(state *tls.ConnectionState) *x509.Certificate {
	if state == nil || len(state.PeerCertificates) == 0 {
		return nil
	}
	return state.PeerCertificates[0]
}

// sign issues an access token for the claims.
func (r *rig) sign(claims map[string]any) string {
	if r.opaqueMode {
		token := "opaque-" + rand.Text()
		r.opaque[token] = claims
		return token
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: r.signing},
		(&jose.SignerOptions{}).WithType("at+jwt").WithHeader("kid", "rig"))
	if err != nil {
		panic(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		panic(err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		panic(err)
	}
	raw, err := signed.CompactSerialize()
	if err != nil {
		panic(err)
	}
	return raw
}

func (r *rig) claims(client, subscription, audience string, certificate *x509.Certificate) map[string]any {
	now := time.Now()
	claims := map[string]any{"iss": r.issuer, "aud": audience, "sub": client, "client_id": client, "subscription_id": subscription,
		"iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix()}
	if certificate != nil {
		claims["cnf"] = map[string]any{"x5t#S256": thumbprint(certificate)}
	}
	if r.has("token: another claim name") {
		delete(claims, "subscription_id")
		claims["fds_subscription"] = subscription
	}
	if r.has("token: no subscription") {
		delete(claims, "subscription_id")
	}
	if r.has("token: two subscriptions") {
		claims["also"] = []string{r.subA, r.subB}
	}
	return claims
}

func (r *rig) expired() string {
	claims := r.claims(r.app1, r.subA, r.api, nil)
	claims["exp"] = time.Now().Add(-time.Hour).Unix()
	return r.sign(claims)
}

func (r *rig) authorizationServer() http.Handler {
	mux := http.NewServeMux()
	metadata := func(w http.ResponseWriter, _ *http.Request) {
		m := map[string]any{"issuer": r.issuer, "token_endpoint": r.issuer + "/token", "jwks_uri": r.issuer + "/jwks",
			"introspection_endpoint": r.issuer + "/introspect", "authorization_endpoint": r.issuer + "/authorize",
			"grant_types_supported": []string{"client_credentials", "refresh_token"}}
		if r.has("metadata: another issuer") {
			m["issuer"] = "https://login.elsewhere.example"
		}
		if r.has("metadata: http address") {
			m["authorization_endpoint"] = "http://login.provider.example/authorize"
		}
		writeJSON(w, 200, m)
	}
	if !r.has("metadata: RFC 8414 path only") {
		mux.HandleFunc("GET /.well-known/openid-configuration", metadata)
	}
	mux.HandleFunc("GET /.well-known/oauth-authorization-server", metadata)
	mux.HandleFunc("GET /jwks", func(w http.ResponseWriter, _ *http.Request) {
		key := jose.JSONWebKey{Key: r.signing.Public(), KeyID: "rig", Algorithm: "ES256", Use: "sig"}
		if r.has("metadata: private key") {
			key.Key = r.signing
		}
		writeJSON(w, 200, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{key}})
	})
	mux.HandleFunc("POST /token", r.token)
	mux.HandleFunc("POST /introspect", func(w http.ResponseWriter, q *http.Request) {
		id, secret, _ := q.BasicAuth()
		if (id != "rs" || secret != r.rsSecret) && !r.has("authorization server: open introspection") {
			writeJSON(w, 401, map[string]string{"error": "invalid_client"})
			return
		}
		claims := map[string]any{"active": false}
		if c, ok := r.opaque[q.FormValue("token")]; ok {
			claims = map[string]any{"active": true}
			for k, v := range c {
				claims[k] = v
			}
		}
		writeJSON(w, 200, claims)
	})
	return mux
}

// client returns the authenticated client of a token request, or "".
func (r *rig) client(q *http.Request) (string, *x509.Certificate) {
	if c := peer(q.TLS); c != nil {
		if id := q.PostFormValue("client_id"); c.Subject.CommonName == id && (id == r.app2 || id == r.provider) {
			return id, c
		}
	}
	id, secret, _ := q.BasicAuth()
	if id, err := url.QueryUnescape(id); err == nil && id == r.app1 && secret == r.secret {
		return id, nil
	}
	if id := q.PostFormValue("client_id"); id == r.app1 && q.PostFormValue("client_secret") == r.secret {
		return id, nil
	}
	if r.has("authorization server: no authentication") {
		return r.app1, nil
	}
	return "", nil
}

func (r *rig) token(w http.ResponseWriter, q *http.Request) {
	client, certificate := r.client(q)
	if client == "" || r.has("authorization server: refuses everybody") {
		e := "invalid_client"
		if r.has("authorization server: repeats secrets") {
			_, secret, _ := q.BasicAuth()
			e = "wrong secret \x1b[31m" + secret
		}
		writeJSON(w, 401, map[string]string{"error": e})
		return
	}
	if r.has("authorization server: refuses everybody else") && client == r.app2 {
		writeJSON(w, 401, map[string]string{"error": "invalid_client"})
		return
	}
	subscription, audience := q.PostFormValue("subscription_id"), r.api
	own := map[string]string{r.app1: r.subA, r.app2: r.subB}[client]
	answer := map[string]any{"token_type": "Bearer", "expires_in": 300}
	switch {
	case q.PostFormValue("grant_type") == "refresh_token":
		if q.PostFormValue("refresh_token") != r.refreshToken {
			writeJSON(w, 400, map[string]string{"error": "invalid_grant"})
			return
		}
		r.refreshToken = "refresh-" + rand.Text()
		answer["refresh_token"], subscription = r.refreshToken, own
	case client == r.provider && q.PostFormValue("scope") == "fds:push" && (subscription == r.subA || subscription == r.subB):
		audience = "urn:webhook:" + subscription
	case r.has("authorization server: normalises IDs") && strings.EqualFold(strings.Trim(subscription, "{}"), own):
		subscription = own
	case r.has("authorization server: any subscription"):
	case client == r.provider, subscription != own:
		writeJSON(w, 400, map[string]string{"error": "invalid_target"})
		return
	}
	answer["access_token"] = r.sign(r.claims(client, subscription, audience, certificate))
	writeJSON(w, 200, answer)
}

// verify returns the claims of a request's token, or nil. Its faults are
// those of verifiers.
func (r *rig) verify(q *http.Request, prefix, audience string) map[string]any {
	raw, ok := strings.CutPrefix(q.Header.Get("Authorization"), "Bearer ")
	if !ok || raw == "" {
		return nil
	}
	if r.opaqueMode {
		if claims := r.opaque[raw]; claims != nil && claims["exp"].(int64) > time.Now().Unix() {
			return claims
		}
		return nil
	}
	var payload []byte
	parts := strings.Split(raw, ".")
	if len(parts) != 3 {
		return nil
	}
	signed, err := jose.ParseSignedCompact(raw, []jose.SignatureAlgorithm{jose.ES256, jose.HS256})
	if err == nil {
		payload, err = signed.Verify(r.verificationKey(signed, prefix))
	}
	header, _ := base64.RawURLEncoding.DecodeString(parts[0])
	unsigned := strings.Contains(string(header), `"none"`)
	if err != nil && (r.has(prefix+": no signature check") || r.has(prefix+": alg none") && unsigned) {
		payload, err = base64.RawURLEncoding.DecodeString(parts[1])
	}
	var claims map[string]any
	if err != nil || json.Unmarshal(payload, &claims) != nil {
		return nil
	}
	exp, _ := claims["exp"].(float64)
	if int64(exp) <= time.Now().Unix() && !r.has(prefix+": no expiry check") || claims["aud"] != audience && !r.has(prefix+": no audience check") {
		return nil
	}
	if cnf, ok := claims["cnf"].(map[string]any); ok && !r.has(prefix+": no binding check") {
		if c := peer(q.TLS); c == nil || thumbprint(c) != cnf["x5t#S256"] {
			return nil
		}
	}
	return claims
}

func (r *rig) verificationKey(signed *jose.JSONWebSignature, prefix string) any {
	header := signed.Signatures[0].Header
	if header.JSONWebKey != nil && r.has(prefix+": takes the token's own key") {
		return header.JSONWebKey.Key
	}
	if header.Algorithm == "HS256" && r.has(prefix+": takes the public key as secret") {
		der, err := x509.MarshalPKIXPublicKey(r.signing.Public())
		if err != nil {
			panic(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	}
	return r.signing.Public()
}

func (r *rig) data() map[string][]map[string]any {
	return map[string][]map[string]any{
		r.subA: {{"device_id": "A1", "generic": map[string]any{"device_type": "dispenser"}}, {"device_id": "A2", "generic": map[string]any{}}},
		r.subB: {{"device_id": "B1", "generic": map[string]any{"device_type": "dispenser"}}},
	}
}

func (r *rig) webAPI() http.Handler {
	mux := http.NewServeMux()
	refuse := func(w http.ResponseWriter) {
		if r.has("api: wrong error object") {
			writeJSON(w, 401, map[string]string{"error": "invalid_token"})
			return
		}
		writeJSON(w, 401, map[string]any{"status": 401, "message": "unauthorized_request"})
	}
	mux.HandleFunc("/fds/v2/{kind}", func(w http.ResponseWriter, q *http.Request) {
		claims := r.verify(q, "api", r.api)
		if claims == nil && r.has("api: no token needed") {
			claims = map[string]any{"subscription_id": r.subA}
		}
		if claims == nil && r.has("api: writing needs no token") && q.Method == http.MethodPost {
			writeJSON(w, 201, map[string]string{"tag_id": "1"})
			return
		}
		subscription, _ := claims["subscription_id"].(string)
		if s, ok := claims["fds_subscription"].(string); ok {
			subscription = s
		}
		if list, ok := claims["subscription_id"].([]any); ok && len(list) > 0 {
			subscription, _ = list[0].(string)
		}
		if subscription == "" && claims != nil && r.has("api: no signature check") {
			subscription = r.subA
		}
		refused := r.has("api: refuses everybody") || r.has("api: refuses B") && subscription == r.subB
		if data := r.data()[subscription]; data == nil || refused {
			refuse(w)
			return
		}
		r.answer(w, q, subscription)
	})
	return mux
}

func (r *rig) answer(w http.ResponseWriter, q *http.Request, subscription string) {
	kind := q.PathValue("kind")
	if kind == string(keyholder.Diagnostics) { // one endpoint is not offered
		writeJSON(w, http.StatusNotImplemented, map[string]any{"status": 204, "message": "not_implemented"})
		return
	}
	if kind == string(keyholder.EventSpecifications) {
		writeJSON(w, 200, []map[string]any{{"message_code": "refilled"}})
		return
	}
	if other := q.FormValue("subscription_id"); other != "" {
		if !r.has("api: takes the subscription from the request") {
			writeJSON(w, 400, map[string]any{"status": 400, "message": "invalid_parameter"})
			return
		}
		subscription = other
	}
	all := r.data()
	items := all[subscription]
	if r.has("api: every owner's data") {
		items = append(slices.Clone(all[r.subA]), all[r.subB]...)
	}
	if ids := q.FormValue("ids"); ids != "" {
		if r.has("api: ids reach everybody's data") {
			items = append(slices.Clone(all[r.subA]), all[r.subB]...)
		}
		wanted := strings.Split(ids, ",")
		items = slices.DeleteFunc(slices.Clone(items), func(i map[string]any) bool { return !slices.Contains(wanted, i["device_id"].(string)) })
		if items == nil {
			items = []map[string]any{}
		}
	}
	if r.has("api: no array") {
		writeJSON(w, 200, map[string]any{"items": items})
		return
	}
	writeJSON(w, 200, items)
}

func (r *rig) webhook() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		claims := r.verify(q, "webhook", "urn:webhook:"+r.subA)
		ok := claims != nil && (claims["subscription_id"] == r.subA || claims["fds_subscription"] == r.subA || r.has("webhook: no audience check"))
		if r.has("webhook: no token needed") {
			ok = true
		}
		if !ok || r.has("webhook: refuses everybody") {
			w.WriteHeader(401)
			return
		}
		w.WriteHeader(204)
	})
}
