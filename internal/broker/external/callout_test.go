package external_test

import (
	"bytes"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/broker/external"
)

// callout makes questions as a NATS server does.
type callout struct {
	door   *external.Door
	known  known
	issuer string
	server nkeys.KeyPair
	user   string
}

func newCallout(t testing.TB) *callout {
	c := &callout{server: must(nkeys.CreateServer())}
	c.door, c.known, _ = newDoor(t)
	c.issuer = must(must(nkeys.FromSeed(bytes.Fields(c.known.keys)[0])).PublicKey())
	c.user = must(must(nkeys.CreateUser()).PublicKey())
	return c
}

// question is what a server asks when a client connects, with the certificate
// that newDoor gave to a subject.
func (c *callout) question(clientID, subject string) *jwt.AuthorizationRequestClaims {
	q := jwt.NewAuthorizationRequestClaims(c.issuer)
	q.Audience = "nats-authorization-request"
	q.Expires = time.Now().Add(time.Minute).Unix()
	q.UserNkey = c.user
	q.Server.ID = must(c.server.PublicKey())
	q.ClientInformation.Type, q.ClientInformation.MQTT = "mqtt", clientID
	certificate := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(subject)}))
	q.TLS = &jwt.ClientTLS{Version: "1.2", VerifiedChains: []jwt.StringList{{certificate}}}
	return q
}

// answer asks, and returns the user that the answer makes: nil is a no. The
// error is that there is no answer.
func (c *callout) answer(t testing.TB, token string) (*jwt.UserClaims, error) {
	t.Helper()
	text, err := c.door.AnswerNATS(t.Context(), []byte(token))
	if err != nil {
		return nil, err
	}
	a := must(jwt.DecodeAuthorizationResponseClaims(text))
	if a.Issuer != c.issuer || a.Audience != must(c.server.PublicKey()) {
		t.Errorf("the answer is of %s for %s", a.Issuer, a.Audience)
	}
	if a.Jwt == "" {
		if a.Error != "refused" {
			t.Errorf("the answer says more than no: %q", a.Error)
		}
		return nil, nil
	}
	return must(jwt.DecodeUserClaims(a.Jwt)), nil
}

// Ensure that a question is answered only if a server asked it, with a yes only
// for a client of MQTT with its own certificate and client ID, and that every
// no is the same.
func TestNATSQuestions(t *testing.T) {
	c := newCallout(t)
	a, b, provider := c.known.a, c.known.b, c.known.provider
	for name, tt := range map[string]struct {
		change func(*jwt.AuthorizationRequestClaims)
		want   bool
	}{
		"consumer":                  {func(*jwt.AuthorizationRequestClaims) {}, true},
		"another client ID":         {func(q *jwt.AuthorizationRequestClaims) { q.ClientInformation.MQTT = b }, false},
		"client ID of the provider": {func(q *jwt.AuthorizationRequestClaims) { q.ClientInformation.MQTT = provider }, false},
		"no client ID":              {func(q *jwt.AuthorizationRequestClaims) { q.ClientInformation.MQTT = "" }, false},
		"client of NATS":            {func(q *jwt.AuthorizationRequestClaims) { q.ClientInformation.Type = "nats" }, false},
		"user name":                 {func(q *jwt.AuthorizationRequestClaims) { q.ConnectOptions.Username = a }, false},
		"token":                     {func(q *jwt.AuthorizationRequestClaims) { q.ConnectOptions.Token = "x" }, false},
		"no TLS":                    {func(q *jwt.AuthorizationRequestClaims) { q.TLS = nil }, false},
		"TLS 1.1":                   {func(q *jwt.AuthorizationRequestClaims) { q.TLS.Version = "1.1" }, false},
		"TLS 1.3":                   {func(q *jwt.AuthorizationRequestClaims) { q.TLS.Version = "1.3" }, false},
		"certificate that was not verified": {func(q *jwt.AuthorizationRequestClaims) {
			q.TLS.Certs, q.TLS.VerifiedChains = q.TLS.VerifiedChains[0], nil
		}, false},
		"empty chain": {func(q *jwt.AuthorizationRequestClaims) { q.TLS.VerifiedChains = []jwt.StringList{{}} }, false},
		"unknown certificate": {func(q *jwt.AuthorizationRequestClaims) {
			q.TLS.VerifiedChains = c.question(a, "stranger").TLS.VerifiedChains
		}, false},
		"certificate of another": {func(q *jwt.AuthorizationRequestClaims) { q.TLS.VerifiedChains = c.question(a, b).TLS.VerifiedChains }, false},
	} {
		q := c.question(a, a)
		tt.change(q)
		u, err := c.answer(t, must(q.Encode(c.server)))
		if err != nil || (u != nil) != tt.want {
			t.Errorf("%s: %v, %v", name, u, err)
		}
	}
	u, err := c.answer(t, must(c.question(provider, provider).Encode(c.server)))
	if err != nil || u == nil || u.Subject != c.user || u.Audience != "FDS" || u.Expires == 0 || strings.Join(u.AllowedConnectionTypes, " ") != "MQTT" ||
		len(u.Pub.Allow) != 2 || strings.Join(u.Sub.Deny, " ") != ">" {
		t.Errorf("the provider: %+v, %v", u, err)
	}

	other := must(nkeys.CreateServer())
	for name, token := range map[string]string{
		"empty":                  "",
		"no question":            must(jwt.NewUserClaims(c.user).Encode(must(nkeys.CreateAccount()))),
		"signed by another":      must(c.question(a, a).Encode(other)),
		"too long":               strings.Repeat("x", 1<<20),
		"signature of another":   strings.Join(append(strings.Split(must(c.question(a, a).Encode(c.server)), ".")[:2], strings.Split(must(c.question(b, b).Encode(c.server)), ".")[2]), "."),
		"for another issuer":     must(changed(c.question(a, a), func(q *jwt.AuthorizationRequestClaims) { q.Subject = c.user }).Encode(c.server)),
		"for another audience":   must(changed(c.question(a, a), func(q *jwt.AuthorizationRequestClaims) { q.Audience = "x" }).Encode(c.server)),
		"too old":                must(changed(c.question(a, a), func(q *jwt.AuthorizationRequestClaims) { q.Expires = time.Now().Add(-time.Minute).Unix() }).Encode(c.server)),
		"never too old":          must(changed(c.question(a, a), func(q *jwt.AuthorizationRequestClaims) { q.Expires = 0 }).Encode(c.server)),
		"user that is no user":   must(changed(c.question(a, a), func(q *jwt.AuthorizationRequestClaims) { q.UserNkey = c.issuer }).Encode(c.server)),
		"server that is another": must(changed(c.question(a, a), func(q *jwt.AuthorizationRequestClaims) { q.Server.ID = must(other.PublicKey()) }).Encode(c.server)),
	} {
		if u, err := c.answer(t, token); keyholder.CodeOf(err) != keyholder.Invalid {
			t.Errorf("%s: %v, %v", name, u, err)
		}
	}
}

func changed(q *jwt.AuthorizationRequestClaims, change func(*jwt.AuthorizationRequestClaims)) *jwt.AuthorizationRequestClaims {
	change(q)
	return q
}

// FuzzNATSQuestion: no question makes the door panic, nothing that no server
// signed is answered, and whom the answer lets in is a party of the ledger with
// its own certificate, and has rights below its own IDs.
func FuzzNATSQuestion(f *testing.F) {
	c := newCallout(f)
	f.Add("", "<a>", "<a>", "", "1.2", "mqtt")
	f.Add("", "<p>", "<p>", "", "1.2", "mqtt")
	f.Add("", "<a>", "<b>", "keyholder", "1.3", "nats")
	f.Add("eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ.e30.AA", "", "", "", "", "")
	f.Fuzz(func(t *testing.T, token, clientID, subject, user, version, kind string) {
		if token != "" {
			if u, err := c.answer(t, token); err == nil {
				t.Errorf("%q is answered: %v", token, u)
			}
			return
		}
		clientID, subject = c.known.in(clientID), c.known.in(subject)
		q := c.question(clientID, subject)
		q.ClientInformation.Type, q.ConnectOptions.Username, q.TLS.Version = kind, user, version
		token, err := q.Encode(c.server)
		if err != nil {
			return
		}
		u, err := c.answer(t, token)
		if err != nil || u == nil {
			return
		}
		if clientID != subject || user != "" || version != "1.2" || kind != "mqtt" || clientID != c.known.a && clientID != c.known.b && clientID != c.known.provider {
			t.Errorf("%q with the certificate of %q is let in", clientID, subject)
		}
		for _, subject := range append(u.Pub.Allow, u.Sub.Allow...) {
			if id, ok := strings.CutPrefix(subject, "fds.v2."); !ok || !strings.HasPrefix(id, c.known.a) && !strings.HasPrefix(id, c.known.b) {
				t.Errorf("%q may use %s", clientID, subject)
			}
		}
	})
}
