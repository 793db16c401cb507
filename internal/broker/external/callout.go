package external

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/pem"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// The words of the auth callout of NATS (its ADR-26).
const (
	calloutSubject  = "$SYS.REQ.USER.AUTH"
	calloutAudience = "nats-authorization-request"
	calloutMQTT     = "mqtt" // the type of a client that speaks MQTT
)

// calloutQuestion is what a NATS server asks when a client connects.
type calloutQuestion struct {
	user, server string // keys: of the user that the answer makes, and of the server that asks
	clientID     string
	certificate  keyholder.Thumbprint // verified by the server; zero: there is none
	tls          uint16               // zero: none that we know
	strange      string               // why it is no client of ours, whoever it is; empty: it may be
}

// parseCallout reads a question, which a server has signed with its own key for
// the issuer. Errors: Invalid for what no server asks; whoever made it gets no
// answer.
func parseCallout(token []byte, issuer string, now time.Time) (calloutQuestion, error) {
	wrong := func(what string) (calloutQuestion, error) {
		return calloutQuestion{}, keyholder.Errorf(keyholder.Invalid, "the question %s", what)
	}
	if len(token) > maxCallout {
		return wrong("is too long")
	}
	c, err := jwt.DecodeAuthorizationRequestClaims(string(token))
	switch {
	case err != nil:
		return wrong("is not signed by a server")
	case c.Audience != calloutAudience || c.Subject != issuer:
		return wrong("is not for this issuer")
	case c.Issuer != c.Server.ID || !nkeys.IsValidPublicServerKey(c.Issuer):
		return wrong("is not signed by the server that it names")
	case c.Expires < now.Unix():
		return wrong("is too old")
	case !nkeys.IsValidPublicUserKey(c.UserNkey):
		return wrong("names no user")
	}
	q := calloutQuestion{user: c.UserNkey, server: c.Server.ID, clientID: c.ClientInformation.MQTT}
	if c.TLS != nil {
		q.tls = map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}[c.TLS.Version]
		if len(c.TLS.VerifiedChains) > 0 && len(c.TLS.VerifiedChains[0]) > 0 {
			if block, _ := pem.Decode([]byte(c.TLS.VerifiedChains[0][0])); block != nil {
				q.certificate = keyholder.ThumbprintOf(block.Bytes)
			}
		}
	}
	o := c.ConnectOptions
	switch {
	case c.ClientInformation.Type != calloutMQTT:
		q.strange = "the client does not speak MQTT"
	case o.Username != "" || o.Password != "" || o.Token != "" || o.Nkey != "" || o.JWT != "":
		q.strange = "the certificate is the identity, and nothing beside it"
	}
	return q, nil
}

// maxCallout bounds a question: names, and a chain of certificates.
const maxCallout = 256 << 10

// serve answers questions until ctx ends.
func (n *natsServer) serve(ctx context.Context, questions <-chan *nats.Msg) {
	for {
		select {
		case m := <-questions:
			answer, err := n.answer(ctx, m.Data)
			if err == nil {
				err = m.Respond([]byte(answer))
			}
			if err != nil {
				n.broker.door.log.Warn("external broker: a question was not answered", "broker", n.broker.name, "error", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// answer makes the signed answer to a question. What no server asks gets none.
func (n *natsServer) answer(ctx context.Context, token []byte) (string, error) {
	q, err := parseCallout(token, n.issuerName, n.broker.door.now())
	if err != nil {
		return "", err
	}
	return n.decide(ctx, q)
}

// decide makes the signed answer to a question. Every no is the same.
func (n *natsServer) decide(ctx context.Context, q calloutQuestion) (string, error) {
	d, now := n.broker.door, n.broker.door.now()
	p, v := n.connect(ctx, q)
	a := jwt.NewAuthorizationResponseClaims(q.user)
	a.Audience = q.server
	if !v.Allowed {
		d.denials.deny(n.broker, "connect", claim{subject: p.Certificate.Subject, clientID: q.clientID}, v)
		a.Error = "refused"
		return a.Encode(n.issuer)
	}
	u := jwt.NewUserClaims(q.user)
	u.Audience = natsAccount
	u.Permissions = natsRights(d.rights(p.Certificate, d.ledger.ListSubscriptions(), now))
	u.Name = natsUser(p, u.Permissions)
	u.AllowedConnectionTypes.Add(jwt.ConnectionTypeMqtt)
	u.Expires = p.Certificate.NotAfter.Unix()
	if until := p.Standing.Until(); !until.IsZero() {
		u.Expires = min(u.Expires, until.Unix())
	}
	var err error
	if a.Jwt, err = u.Encode(n.issuer); err != nil {
		return "", err
	}
	return a.Encode(n.issuer)
}

// connect decides whether a client may connect. NATS has no highest version of
// TLS in its configuration, so it is ours to refuse what is above the profile.
func (n *natsServer) connect(ctx context.Context, q calloutQuestion) (ledger.Peer, keyholder.Verdict) {
	d := n.broker.door
	p := d.ledger.Peer(q.certificate)
	switch {
	case q.strange != "":
		return p, refuse(keyholder.M2, q.strange)
	case q.tls > n.maxTLS:
		return p, refuse(keyholder.M1, "the connection is above TLS 1.2")
	}
	c := keyholder.Connection{TLSVersion: q.tls, Certificate: p.Certificate, Standing: p.Standing, Provider: p.Provider, ClientID: q.clientID}
	v := keyholder.PermitConnect(c, d.now())
	if !v.Allowed || len(d.ledger.PeersOf(q.clientID)) < 2 {
		return p, v
	}
	// Only a client with several certificates may hold its client ID with
	// another one.
	ctx, cancel := context.WithTimeout(ctx, cutLimit)
	defer cancel()
	present, err := n.connections(ctx, q.clientID)
	if err != nil && len(present) == 0 {
		return p, refuse(keyholder.M5, "it cannot be seen which certificate has the client ID: "+reason(err))
	}
	for _, held := range present {
		if holder := n.holder(held); holder.Permit(d.now()).Allowed {
			c.Holder = holder.Certificate.Thumbprint
		}
	}
	return p, keyholder.PermitConnect(c, d.now())
}

// natsRights writes rights as NATS knows them, subjects with dots. An empty list
// would allow everything.
func natsRights(r rights) jwt.Permissions {
	var p jwt.Permissions
	for _, f := range r.reads {
		// A filter that ends in # also selects the level above, and NATS grants
		// it only to who may subscribe to both.
		base := natsSubject(f)
		p.Sub.Allow = append(p.Sub.Allow, base, base+".>")
	}
	for _, f := range r.writes {
		base := natsSubject(f)
		if f.Pattern != everyLevel {
			p.Pub.Allow = append(p.Pub.Allow, base)
		}
		p.Pub.Allow = append(p.Pub.Allow, base+".>")
	}
	for _, list := range []*jwt.Permission{&p.Pub, &p.Sub} {
		slices.Sort(list.Allow)
		if len(list.Allow) == 0 {
			list.Deny = jwt.StringList{">"}
		}
	}
	return p
}

// natsSubject is what a filter of rights begins with, without its wildcards.
func natsSubject(f keyholder.Filter) string {
	return strings.ReplaceAll(strings.TrimSuffix(strings.TrimSuffix(f.String(), "/#"), "/+"), "/", ".")
}

// natsUser names a user by the certificate and by what was permitted, so that
// the list of connections says which of them have other rights by now.
func natsUser(p ledger.Peer, rights jwt.Permissions) string {
	h := sha256.New()
	for _, list := range [][]string{rights.Sub.Allow, rights.Sub.Deny, rights.Pub.Allow, rights.Pub.Deny} {
		h.Write([]byte(strings.Join(list, "\n") + "\n\n"))
	}
	return p.Certificate.Thumbprint.String() + "-" + hex.EncodeToString(h.Sum(nil)[:16])
}
