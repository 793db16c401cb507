package authserver_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/guard"
	"github.com/fds-keyholder/keyholder/internal/facility"
	"github.com/fds-keyholder/keyholder/internal/mailbox"
	"github.com/fds-keyholder/keyholder/internal/webapi"
)

// attack is something that must not work: what is sent, the answer it must
// get, and the row that it must leave in the audit trail.
type attack struct {
	name   string
	send   func() reply
	status int
	code   string // OAuth error code or FDS message; of a page, words of it
	kind   keyholder.EventKind
	reason string // part of the row's details
}

// stage is an authorization server and the Web API that takes its tokens, with
// what an attacker may have got hold of.
type stage struct {
	*bench
	api string // address of the Web API, which the parties know as apiBase
	sub keyholder.SubscriptionID

	good   reply          // the tokens of the secret app
	claims map[string]any // of its access token
	cert   tls.Certificate
	bound  string // a token bound to cert
	key    dpopKey
	proven string // a token bound to key
}

func newStage(t *testing.T) *stage {
	s := &stage{bench: open(t), key: newDPoPKey()}
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	g := must(guard.New(guard.Config{Issuer: s.issuer, Audience: apiBase, Ended: s.ledger.TokenEnded, Now: s.now,
		Keys: func(_ context.Context, kid string) (crypto.PublicKey, error) {
			set := s.keys.JWKS()
			for _, k := range set.Key(kid) {
				return k.Key, nil
			}
			return nil, keyholder.Errorf(keyholder.NotFound, "no such key")
		}}))
	box := must(mailbox.Open(s.store, s.ledger, mailbox.Config{Log: quiet}))
	t.Cleanup(func() { _ = box.Close() })
	api := must(webapi.New(webapi.Config{Ledger: s.ledger, Facility: must(facility.Open(facility.Config{Store: s.store, Now: s.now})), Mailbox: box, Guard: g, Log: quiet, Now: s.now}))
	s.api = serveTLS(t, s.authority, api.Handler())

	s.good = s.tokens()
	s.claims = s.bench.claims(s.good.text("access_token"), "at+jwt")
	s.sub = s.subscription(s.good.text("access_token"))
	s.cert = s.certificate(keyholder.ForApp, string(s.certApp.ID))
	s.bound = s.post(s.client(s.cert), "/token", with(redemption(s.code(s.certApp)), "client_id", string(s.certApp.ID))).text("access_token")
	s.proven = s.prove(s.client(), "/token", s.asApp("grant_type", "client_credentials", "subscription_id", string(s.sub)), s.fresh(s.key)).text("access_token")
	return s
}

// pull reads from the Web API; headers are names and values.
func (s *stage) pull(c *http.Client, headers ...string) reply {
	s.t.Helper()
	r := must(http.NewRequest(http.MethodGet, s.api+"/fds/v2/statuses", nil))
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	resp, err := c.Do(r)
	return read(s.t, resp, err)
}

// forged is the good token with other claims, nil removing one, signed with
// the server's own key.
func (s *stage) forged(pairs ...any) string {
	return must(s.keys.Sign(s.payload(pairs...), "at+jwt"))
}

func (s *stage) payload(pairs ...any) []byte {
	c := map[string]any{}
	for name, v := range s.claims {
		c[name] = v
	}
	for i := 0; i < len(pairs); i += 2 {
		if c[pairs[i].(string)] = pairs[i+1]; pairs[i+1] == nil {
			delete(c, pairs[i].(string))
		}
	}
	return must(json.Marshal(c))
}

// unsigned is the good token under another header; sign gets what is to be
// signed.
func (s *stage) unsigned(header map[string]any, sign func(input string) []byte) string {
	encode := base64.RawURLEncoding.EncodeToString
	input := encode(must(json.Marshal(header))) + "." + encode(s.payload())
	return input + "." + encode(sign(input))
}

// mac signs with a secret that everybody knows.
func mac(secret []byte) func(string) []byte {
	return func(input string) []byte {
		h := hmac.New(sha256.New, secret)
		h.Write([]byte(input))
		return h.Sum(nil)
	}
}

// proofFor makes a proof for a pull; changes are as for proof.
func (s *stage) proofFor(k dpopKey, token string, pairs ...any) string {
	sum := sha256.Sum256([]byte(token))
	changes := map[string]any{"htm": "GET", "ath": base64.RawURLEncoding.EncodeToString(sum[:])}
	for i := 0; i < len(pairs); i += 2 {
		changes[pairs[i].(string)] = pairs[i+1]
	}
	return k.proof(apiBase+"/fds/v2/statuses", s.now(), changes)
}

// onTokens are the attacks with tokens on the Web API. Whatever is the matter,
// the answer is the same.
func onTokens(s *stage) []attack {
	now := s.now().Unix()
	kid, signer := s.keys.Signer()
	public := must(x509.MarshalPKIXPublicKey(signer.Public()))
	foreign := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	stolen := func(kid string) string {
		o := (&jose.SignerOptions{}).WithType("at+jwt").WithHeader("kid", kid)
		return must(must(must(jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: foreign}, o)).Sign(s.payload())).CompactSerialize())
	}
	header := func(alg string) map[string]any { return map[string]any{"typ": "at+jwt", "alg": alg, "kid": kid} }
	none := func(string) []byte { return nil }
	another := s.certificate(keyholder.ForApp, string(s.certApp.ID))
	var all []attack
	row := func(name, reason string, c *http.Client, headers ...string) {
		all = append(all, attack{name, func() reply { return s.pull(c, headers...) }, http.StatusUnauthorized, "unauthorized_request", keyholder.EventDenied, reason})
	}
	bearer := func(name, reason, token string) { row(name, reason, s.client(), "Authorization", "Bearer "+token) }

	bearer("algorithm none", "not a compact JWS", s.unsigned(header("none"), none))
	bearer("algorithm none with a signature", "allowed algorithm", s.unsigned(header("none"), mac(nil)))
	bearer("HS256 with the public key in DER", "allowed algorithm", s.unsigned(header("HS256"), mac(public)))
	bearer("HS256 with the public key in PEM", "allowed algorithm", s.unsigned(header("HS256"), mac(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))))
	bearer("foreign key under a kid of its own", "no such key", stolen("foreign"))
	bearer("foreign key under our kid", "signature is wrong", stolen(kid))
	bearer("expired", "has expired", s.forged("exp", now-1, "iat", now-301))
	bearer("not yet valid", "not valid yet", s.forged("nbf", now+60))
	bearer("issued in the future", "issued in the future", s.forged("iat", now+60, "exp", now+360))
	bearer("never expires", "exp is missing", s.forged("exp", nil))
	bearer("another audience", "another audience", s.forged("aud", "https://other.example"))
	bearer("no audience", "aud is missing", s.forged("aud", nil))
	bearer("audience of a webhook", "another audience", s.forged("aud", keyholder.WebhookAudience(s.sub)))
	bearer("another issuer", "another issuer", s.forged("iss", "https://as.example"))
	bearer("issuer with a slash", "another issuer", s.forged("iss", s.issuer+"/"))
	bearer("no subscription_id", "no subscription ID", s.forged("subscription_id", nil))
	bearer("subscription_id of version 1", "subscription_id is missing or malformed", s.forged("subscription_id", "6f1e9a52-3c1b-1f0e-9b7d-2a5c8d4e1f30"))
	bearer("subscription_id in capitals", "subscription_id is missing or malformed", s.forged("subscription_id", strings.ToUpper(string(s.sub))))
	bearer("two subscription_id", "subscription_id is missing or malformed", s.forged("subscription_id", []string{string(s.sub), string(s.sub)}))
	bearer("another's subscription_id", "belongs to another app", s.forged("client_id", string(s.certApp.ID)))
	bearer("ID token", "type is not that of an access token", s.good.text("id_token"))
	bearer("refresh token", "not a compact JWS", s.good.text("refresh_token"))
	bearer("token of another scope", "has not the scope", s.forged("scope", "fds:push"))
	bearer("bound to a certificate, without it", "bound to another certificate", s.bound)
	row("bound to a certificate, with another of the app", "bound to another certificate", s.client(another), "Authorization", "Bearer "+s.bound)
	row("bound to a certificate, with a copy", "bound to another certificate", s.client(copied(s.t.(*testing.T), s.cert)), "Authorization", "Bearer "+s.bound)
	row("two tokens", "more than one Authorization", s.client(), "Authorization", "Bearer "+s.good.text("access_token"), "Authorization", "Bearer "+s.good.text("access_token"))

	thief, used := newDPoPKey(), s.proofFor(s.key, s.proven)
	if r := s.pull(s.client(), "Authorization", "DPoP "+s.proven, "DPoP", used); r.status != http.StatusOK {
		s.t.Fatalf("a good proof: status %d %s", r.status, r.body)
	}
	bearer("bound to a key, as a bearer token", "bound to a key", s.proven)
	dpop := func(name, reason, token, proof string) {
		row(name, reason, s.client(), "Authorization", "DPoP "+token, "DPoP", proof)
	}
	dpop("proof replayed", "used before", s.proven, used)
	dpop("proof of a thief's key", "not bound to the key", s.proven, s.proofFor(thief, s.proven))
	dpop("proof with an unbound token", "not bound to the key", s.good.text("access_token"), s.proofFor(thief, s.good.text("access_token")))
	dpop("proof for another method", "htm", s.proven, s.proofFor(s.key, s.proven, "htm", "POST"))
	dpop("proof for another address", "htu", s.proven, s.proofFor(s.key, s.proven, "htu", apiBase+"/fds/v2/events"))
	dpop("proof for another token", "ath", s.proven, s.proofFor(s.key, s.good.text("access_token")))
	dpop("proof without a token's hash", "ath", s.proven, s.proofFor(s.key, s.proven, "ath", nil))
	dpop("proof a minute old", "too old", s.proven, s.proofFor(s.key, s.proven, "iat", now-60))
	dpop("proof from the future", "future", s.proven, s.proofFor(s.key, s.proven, "iat", now+60))
	dpop("proof for the token endpoint", "htm", s.proven, s.fresh(s.key))
	return all
}

// onGrants are the attacks on the token endpoint.
func onGrants(s *stage) []attack {
	app := []string{"client_id", string(s.app.ID), "client_secret", s.secret}
	var all []attack
	row := func(name string, status int, code string, kind keyholder.EventKind, reason string, send func() reply) {
		all = append(all, attack{name, send, status, code, kind, reason})
	}
	denied := func(name, code, reason string, send func() reply) {
		row(name, http.StatusBadRequest, code, keyholder.EventTokenDenied, reason, send)
	}
	token := func(c *http.Client, form url.Values, proofs ...string) reply {
		return s.prove(c, "/token", form, proofs...)
	}
	redeem := func(code string, pairs ...string) reply {
		return token(s.client(), with(with(redemption(code), app...), pairs...))
	}
	machine := func(pairs ...string) url.Values {
		return with(s.asApp("grant_type", "client_credentials", "subscription_id", string(s.sub)), pairs...)
	}

	row("code replayed", http.StatusBadRequest, "invalid_grant", keyholder.EventTokenReused, "an authorization code", func() reply {
		code := s.code(s.app)
		redeem(code)
		return redeem(code)
	})
	row("refresh token replayed", http.StatusBadRequest, "invalid_grant", keyholder.EventTokenReused, "a refresh token", func() reply {
		first := s.tokens()
		s.refresh(s.refresh(first.text("refresh_token")).text("refresh_token"))
		return s.refresh(first.text("refresh_token"))
	})
	denied("code with a guessed verifier", "invalid_grant", "code_verifier", func() reply { return redeem(s.code(s.app), "code_verifier", strings.Repeat("x", 50)) })
	denied("code with another redirect URI", "invalid_grant", "redirect_uri", func() reply { return redeem(s.code(s.app), "redirect_uri", callback+"/") })
	denied("code of another server (mix-up)", "invalid_grant", "", func() reply {
		other := open(s.t)
		return redeem(other.code(other.app))
	})
	denied("code of another app", "invalid_grant", "different client", func() reply {
		return token(s.client(s.cert), with(redemption(s.code(s.app)), "client_id", string(s.certApp.ID)))
	})
	row("certificate with a copied subject", http.StatusUnauthorized, "invalid_client", keyholder.EventTokenDenied, "", func() reply {
		return token(s.client(copied(s.t.(*testing.T), s.cert)), with(machine(), "client_id", string(s.certApp.ID), "client_secret", ""))
	})
	row("certificate of another app", http.StatusUnauthorized, "invalid_client", keyholder.EventTokenDenied, "", func() reply {
		return token(s.client(s.certificate(keyholder.ForApp, string(s.app.ID))), values("grant_type", "client_credentials", "subscription_id", string(s.sub), "client_id", string(s.certApp.ID)))
	})
	row("wrong secret", http.StatusUnauthorized, "invalid_client", keyholder.EventTokenDenied, "", func() reply { return token(s.client(), machine("client_secret", "khs_guessed")) })
	denied("another's subscription", "invalid_grant", "", func() reply {
		return token(s.client(), machine("subscription_id", "6f1e9a52-3c1b-4f0e-9b7d-2a5c8d4e1f30"))
	})
	denied("unknown audience", "invalid_target", "resource", func() reply { return token(s.client(), machine("resource", "https://evil.example")) })
	denied("DPoP proof replayed", "invalid_dpop_proof", "used before", func() reply {
		proof := s.fresh(s.key)
		token(s.client(), machine(), proof)
		return token(s.client(), machine(), proof)
	})
	denied("DPoP proof for the Web API", "invalid_dpop_proof", "htm", func() reply { return token(s.client(), machine(), s.proofFor(s.key, s.proven)) })
	denied("two DPoP proofs", "invalid_dpop_proof", "exactly one", func() reply { return token(s.client(), machine(), s.fresh(s.key), s.fresh(s.key)) })
	denied("code for a key, with a thief's", "invalid_dpop_proof", "thumbprint", func() reply {
		w := s.browser().signIn(with(authorization(s.app), "dpop_jkt", s.key.thumbprint())).submit("action", "share")
		return token(s.client(), with(redemption(w.left.Query().Get("code")), app...), s.fresh(newDPoPKey()))
	})
	denied("bound refresh token without a proof", "invalid_request", "DPoP proof is required", func() reply {
		first := token(s.client(), with(redemption(s.code(s.app)), app...), s.fresh(s.key))
		return s.refresh(first.text("refresh_token"))
	})
	// The last one, because the clock of the library does not go with it.
	denied("code a minute old", "invalid_grant", "expired", func() reply {
		code := s.code(s.app)
		s.pass(time.Minute)
		return redeem(code)
	})
	return all
}

// onPages are the attacks on the owner's browser.
func onPages(s *stage) []attack {
	var all []attack
	row := func(name string, status int, words, reason string, send func() reply) {
		all = append(all, attack{name, send, status, words, keyholder.EventDenied, reason})
	}
	for _, uri := range []string{"", "https://evil.example/callback", callback + "/", callback + "?", callback + "#", callback + "?x=1",
		"HTTPS://app.example/callback", "https://app.example:443/callback", "https://app.example/./callback", "https://app.example/%63allback",
		"https://app.example@evil.example/callback", "http://app.example/callback", "javascript:alert(1)"} {
		row("redirect URI "+uri, http.StatusBadRequest, "does not lead back", "does not lead back", func() reply {
			return s.browser().open(s.issuer + "/authorize?" + with(authorization(s.app), "redirect_uri", uri).Encode()).page
		})
	}
	row("consent posted from another browser", http.StatusForbidden, "another browser", "another browser", func() reply {
		address, fields := s.browser().signIn(authorization(s.app)).form()
		return s.browser().send(address, with(fields, "action", "share")).page
	})
	row("consent posted from another browser with a sign-in of its own", http.StatusForbidden, "another browser", "another browser", func() reply {
		address, fields := s.browser().signIn(authorization(s.app)).form()
		return s.browser().signIn(authorization(s.app)).send(address, with(fields, "action", "share")).page
	})
	row("consent posted by another site", http.StatusForbidden, "another site", "cross-origin", func() reply {
		w := s.browser().signIn(authorization(s.app))
		address, fields := w.form()
		r := must(http.NewRequest(http.MethodPost, address, strings.NewReader(with(fields, "action", "share").Encode())))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Sec-Fetch-Site", "cross-site")
		return w.do(r).page
	})
	row("consent with the secret of another form", http.StatusForbidden, "not up to date", "secret", func() reply {
		w := s.browser().signIn(authorization(s.app))
		address, fields := w.form()
		return w.send(address, with(fields, "action", "share", "csrf", strings.Repeat("A", 43))).page
	})
	row("finished consent posted again", http.StatusBadRequest, "This sign-in is over", "finished", func() reply {
		w := s.browser().signIn(authorization(s.app))
		address, fields := w.form()
		w.submit("action", "share")
		return w.send(address, with(fields, "action", "share")).page
	})
	row("pushed request used again", http.StatusBadRequest, "used up", "used up", func() reply {
		uri := s.pushed()
		s.browser().open(s.issuer + "/authorize?" + referring(s.app, uri).Encode())
		return s.browser().open(s.issuer + "/authorize?" + referring(s.app, uri).Encode()).page
	})
	return all
}

// Ensure that none of the known attacks on tokens, grants and pages works,
// that each gets the answer it must get, which says no more than that, and
// that each is in the audit trail.
func TestAttacks(t *testing.T) {
	s := newStage(t)
	for _, group := range []struct {
		name    string
		attacks []attack
	}{{"token", onTokens(s)}, {"page", onPages(s)}, {"grant", onGrants(s)}} {
		for _, a := range group.attacks {
			t.Run(group.name+"/"+a.name, func(t *testing.T) {
				before := len(must(s.ledger.Audit(t.Context(), 0, 100_000)))
				r := a.send()
				if r.status != a.status {
					t.Errorf("status %d, want %d: %s", r.status, a.status, r.body)
				}
				switch group.name {
				case "token":
					if want := `{"status":401,"message":"` + a.code + `"}`; strings.TrimSpace(r.body) != want {
						t.Errorf("body %s, want %s", r.body, want)
					}
				case "grant":
					refused(t, r, a.status, a.code)
				case "page":
					if !strings.Contains(r.body, a.code) {
						t.Errorf("the page does not say %q:\n%s", a.code, r.body)
					}
				}
				rows := must(s.ledger.Audit(t.Context(), int64(before), 100_000))
				found := false
				for _, e := range rows {
					said := e.Detail["reason"] + " " + e.Detail["what"]
					found = found || e.Kind == a.kind && strings.TrimSpace(said) != "" && strings.Contains(said, a.reason)
				}
				if !found {
					t.Errorf("no audit row of %s that says %q: %+v", a.kind, a.reason, rows)
				}
			})
		}
	}
	if _, err := s.ledger.VerifyAudit(t.Context()); err != nil {
		t.Error(err)
	}
	// After all this, what is right still works.
	if r := s.pull(s.client(), "Authorization", "DPoP "+s.proven, "DPoP", s.proofFor(s.key, s.proven)); r.status != http.StatusOK {
		t.Errorf("a good proof: status %d %s", r.status, r.body)
	}
	if r := s.pull(s.client(s.cert), "Authorization", "Bearer "+s.bound); r.status != http.StatusOK {
		t.Errorf("the right certificate: status %d %s", r.status, r.body)
	}
}
