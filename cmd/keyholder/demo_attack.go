package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
	"github.com/go-jose/go-jose/v4"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/console"
	"github.com/fds-keyholder/keyholder/internal/keyring"
	"github.com/fds-keyholder/keyholder/internal/pki"
)

// attack is one thing that must be refused. try returns whether it was, and
// what was seen.
type attack struct {
	name string
	try  func(context.Context) (refused bool, seen string, err error)
}

// attack plays strangers and parties that overstep.
func (d *demo) attack(ctx context.Context) error {
	attacks := append(d.brokerAttacks(), d.tokenAttacks()...)
	d.story.chapter("Attacks: %d tries", len(attacks))
	refused := 0
	for _, a := range attacks {
		ok, seen, err := a.try(ctx)
		if err != nil {
			return fmt.Errorf("attack %q could not be tried: %w", a.name, err)
		}
		if ok {
			refused++
		}
		d.story.check(ok, a.name, seen)
	}
	d.story.say("%d of %d refused", refused, len(attacks))
	return nil
}

func (d *demo) brokerAttacks() []attack {
	a, b := d.subs["A"], d.subs["B"]
	ownTopic := keyholder.Topic{Subscription: a.id, Level: "events"}.String()
	return []attack{
		{"MQTT without a certificate", func(ctx context.Context) (bool, string, error) {
			return d.refusedConnect(ctx, d.fabric.tls(), &paho.Connect{ClientID: string(a.id)})
		}},
		{"MQTT with a foreign authority's certificate", func(ctx context.Context) (bool, string, error) {
			c, err := d.foreignCertificate(string(a.id))
			if err != nil {
				return false, "", err
			}
			return d.refusedConnect(ctx, d.fabric.tls(c), &paho.Connect{ClientID: string(a.id)})
		}},
		{"MQTT with a revoked certificate", func(ctx context.Context) (bool, string, error) {
			c, _, _, err := d.revokedCertificate(ctx, a.id)
			if err != nil {
				return false, "", err
			}
			return d.refusedConnect(ctx, d.fabric.tls(c), &paho.Connect{ClientID: string(a.id)})
		}},
		{"MQTT with another owner's client ID", func(ctx context.Context) (bool, string, error) {
			return d.refusedConnect(ctx, d.fabric.tls(a.certificate), &paho.Connect{ClientID: string(b.id)})
		}},
		{"MQTT with a last will", func(ctx context.Context) (bool, string, error) {
			return d.refusedConnect(ctx, d.fabric.tls(a.certificate), &paho.Connect{ClientID: string(a.id),
				WillMessage: &paho.WillMessage{Topic: ownTopic, Payload: []byte(`{}`), QoS: 1}})
		}},
		{"consumer subscribes to #", d.refusedFilter(a, "#")},
		{"consumer subscribes to fds/v2/+/#", d.refusedFilter(a, "fds/v2/+/#")},
		{"consumer subscribes to another owner's topics", d.refusedFilter(a, "fds/v2/"+string(b.id)+"/#")},
		{"consumer subscribes through $share", d.refusedFilter(a, "$share/g/fds/v2/"+string(a.id)+"/#")},
		{"provider subscribes", d.refusedFilterOf(d.provider.certificate, string(d.provider.ID), "fds/v2/"+string(a.id)+"/#")},
		{"consumer publishes", d.refusedPublish(a.certificate, string(a.id), ownTopic)},
		{"another provider publishes into A", d.refusedPublish(d.provider2.certificate, string(d.provider2.ID), ownTopic)},
	}
}

// refusedConnect tries to connect.
func (d *demo) refusedConnect(ctx context.Context, c *tls.Config, connect *paho.Connect) (bool, string, error) {
	connect.CleanStart = true
	mqtt, err := d.dialMQTT(ctx, c, connect)
	if err == nil {
		_ = mqtt.Disconnect(&paho.Disconnect{})
		return false, "connected", nil
	}
	return true, refusal(err), nil
}

// refusal names how a door said no.
func refusal(err error) string {
	switch text := err.Error(); {
	case strings.Contains(text, "tls:"):
		return "refused in the TLS handshake"
	case errors.Is(err, io.EOF), strings.Contains(text, "EOF"), strings.Contains(text, "reset"):
		return "connection closed"
	default:
		return text
	}
}

func (d *demo) refusedFilter(s *demoSubscription, filter string) func(context.Context) (bool, string, error) {
	return d.refusedFilterOf(s.certificate, string(s.id), filter)
}

// refusedFilterOf connects rightly and tries to subscribe. It writes the
// packets itself, because the client library would not send a filter that the
// server says it does not support.
func (d *demo) refusedFilterOf(c tls.Certificate, id, filter string) func(context.Context) (bool, string, error) {
	return func(ctx context.Context) (bool, string, error) {
		dialer := tls.Dialer{Config: d.fabric.tls(c)}
		conn, err := dialer.DialContext(ctx, "tcp", d.fabric.mqttAddress())
		if err != nil {
			return false, "", fmt.Errorf("connect: %w", err)
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			return false, "", err
		}
		hello := packets.NewControlPacket(packets.CONNECT)
		*hello.Content.(*packets.Connect) = packets.Connect{ProtocolName: "MQTT", ProtocolVersion: 5, ClientID: id, CleanStart: true, KeepAlive: 30, Properties: &packets.Properties{}}
		ask := packets.NewControlPacket(packets.SUBSCRIBE)
		*ask.Content.(*packets.Subscribe) = packets.Subscribe{PacketID: 1, Properties: &packets.Properties{}, Subscriptions: []packets.SubOptions{{Topic: filter, QoS: 1}}}
		for _, p := range []*packets.ControlPacket{hello, ask} {
			if _, err := p.WriteTo(conn); err != nil {
				return false, "", fmt.Errorf("send: %w", err)
			}
			answer, err := packets.ReadPacket(conn)
			if err != nil {
				return p == ask, refusal(err), nil
			}
			if ack, ok := answer.Content.(*packets.Suback); ok && len(ack.Reasons) == 1 {
				return ack.Reasons[0] >= 0x80, fmt.Sprintf("SUBACK 0x%02x", ack.Reasons[0]), nil
			}
		}
		return false, "no SUBACK", nil
	}
}

// refusedPublish connects rightly and tries to publish.
func (d *demo) refusedPublish(c tls.Certificate, id, topic string) func(context.Context) (bool, string, error) {
	return func(ctx context.Context) (bool, string, error) {
		mqtt, err := d.dialMQTT(ctx, d.fabric.tls(c), &paho.Connect{ClientID: id, CleanStart: true})
		if err != nil {
			return false, "", fmt.Errorf("connect: %w", err)
		}
		defer func() { _ = mqtt.Disconnect(&paho.Disconnect{}) }()
		ack, err := mqtt.Publish(ctx, &paho.Publish{QoS: 1, Topic: topic, Payload: []byte(`{"forged":true}`)})
		if ack == nil {
			if err != nil {
				return true, refusal(err), nil
			}
			return false, "no answer", nil
		}
		return ack.ReasonCode >= 0x80, fmt.Sprintf("PUBACK 0x%02x", ack.ReasonCode), nil
	}
}

// foreignCertificate is what a stranger with an authority of their own can
// make: everything right but the signature.
func (d *demo) foreignCertificate(subject string) (tls.Certificate, error) {
	dir := filepath.Join(d.dir, "stranger")
	if err := os.RemoveAll(dir); err != nil {
		return tls.Certificate{}, err
	}
	if err := pki.Init(dir, time.Now(), nil); err != nil {
		return tls.Certificate{}, err
	}
	authority, err := pki.Open(dir)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := pki.NewKey()
	if err != nil {
		return tls.Certificate{}, err
	}
	csr, err := pki.NewRequest(key, "stranger")
	if err != nil {
		return tls.Certificate{}, err
	}
	request, err := pki.ParseRequest(csr)
	if err != nil {
		return tls.Certificate{}, err
	}
	certificate, _, err := authority.Sign(request, keyholder.ForSubscription, subject, time.Now().Add(-time.Minute), time.Now().Add(time.Hour))
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(certificate, key)
}

// revokedCertificate has a further certificate issued and cuts it at once.
func (d *demo) revokedCertificate(ctx context.Context, id keyholder.SubscriptionID) (tls.Certificate, string, string, error) {
	c, certFile, keyFile, err := d.certificate(ctx, d.fabric, keyholder.ForSubscription, string(id), "revoked-consumer-A")
	if err != nil {
		return c, "", "", err
	}
	_, err = d.fabric.admin.Cut(ctx, console.NewCut{Kind: string(keyholder.CutCertificate), ID: keyholder.Serial(c.Leaf.SerialNumber), Reason: "demo: key lost"})
	return c, certFile, keyFile, err
}

func (d *demo) tokenAttacks() []attack {
	a, b := d.subs["A"], d.subs["B"]
	statuses := d.fabric.daemon.API + "/fds/v2/statuses"
	return []attack{
		{"pull without a token", d.refusedPull(statuses, func(context.Context) (string, error) { return "", nil })},
		{"pull with an expired token", d.refusedPull(statuses, func(ctx context.Context) (string, error) { return d.expiredToken(ctx, a) })},
		{"pull with a token of a stranger's key", d.refusedPull(statuses, func(ctx context.Context) (string, error) { return d.forgedToken(ctx, a) })},
		{"pull with App 2's token, without its certificate", d.refusedPull(statuses, b.session.Token)},
		{"App 1 asks for the other owner's devices", func(ctx context.Context) (bool, string, error) {
			id := deviceOf(d.facility.items[stAnna][keyholder.Specifications][0])
			items, err := a.session.Items(ctx, keyholder.Specifications, id)
			return len(items) == 0, fmt.Sprintf("%d items", len(items)), err
		}},
		{"App 1 asks for a token of App 2's subscription", func(ctx context.Context) (bool, string, error) {
			_, err := d.apps[0].client.ClientCredentials(ctx, b.id)
			if err == nil {
				return false, "token issued", nil
			}
			return true, err.Error(), nil
		}},
		{"App 1 with a wrong secret", func(ctx context.Context) (bool, string, error) {
			form := url.Values{"grant_type": {"client_credentials"}, "scope": {keyholder.ScopeRead}, "subscription_id": {string(a.id)},
				"client_id": {string(d.apps[0].ID)}, "client_secret": {"khs_guess"}}
			r, err := http.NewRequestWithContext(ctx, http.MethodPost, d.fabric.daemon.Issuer+"/token", strings.NewReader(form.Encode()))
			if err != nil {
				return false, "", err
			}
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			status, body, err := exchange(d.fabric.http(), r)
			return status == http.StatusUnauthorized && strings.Contains(body, "invalid_client"), fmt.Sprintf("%d invalid_client", status), err
		}},
		{"push to App 2's webhook without a token", func(ctx context.Context) (bool, string, error) {
			r, err := http.NewRequestWithContext(ctx, http.MethodPost, d.receiver.url, strings.NewReader(`{"forged":true}`))
			if err != nil {
				return false, "", err
			}
			r.Header.Set("Content-Type", "application/json")
			status, _, err := exchange(d.appSide.http(), r)
			return status == http.StatusUnauthorized, fmt.Sprint(status), err
		}},
	}
}

// refusedPull tries to read with a token, without a certificate.
func (d *demo) refusedPull(address string, token func(context.Context) (string, error)) func(context.Context) (bool, string, error) {
	return func(ctx context.Context) (bool, string, error) {
		raw, err := token(ctx)
		if err != nil {
			return false, "", err
		}
		status, body, err := d.get(ctx, address, raw)
		var e struct {
			Status  int    `json:"status"`
			Message string `json:"message"`
		}
		if err == nil && json.Unmarshal([]byte(body), &e) != nil {
			return false, fmt.Sprintf("%d without an FDS error object", status), nil
		}
		return status == http.StatusUnauthorized && e.Status == status && e.Message == "unauthorized_request",
			fmt.Sprintf("%d %s", status, e.Message), err
	}
}

func (d *demo) get(ctx context.Context, address, token string) (int, string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return 0, "", err
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return exchange(d.fabric.http(), r)
}

func exchange(c *http.Client, r *http.Request) (int, string, error) {
	resp, err := c.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, string(body), err
}

// expiredToken is a token as the authorization server issued it a day ago:
// signed with the real key, which only someone with the data folder can do.
func (d *demo) expiredToken(ctx context.Context, s *demoSubscription) (string, error) {
	keys, err := keyring.Open(d.fabric.dir)
	if err != nil {
		return "", err
	}
	claims, err := d.claims(ctx, s, time.Now().Add(-24*time.Hour))
	if err != nil {
		return "", err
	}
	return keys.Sign(claims, "at+jwt")
}

// forgedToken has everything right but the key.
func (d *demo) forgedToken(ctx context.Context, s *demoSubscription) (string, error) {
	claims, err := d.claims(ctx, s, time.Now())
	if err != nil {
		return "", err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	real, err := keyring.Open(d.fabric.dir)
	if err != nil {
		return "", err
	}
	kid, _ := real.Signer()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, (&jose.SignerOptions{}).WithType("at+jwt"))
	if err != nil {
		return "", err
	}
	signed, err := signer.Sign(claims)
	if err != nil {
		return "", err
	}
	return signed.CompactSerialize()
}

// claims are those of the subscription's present token, moved to a time.
func (d *demo) claims(ctx context.Context, s *demoSubscription, issued time.Time) ([]byte, error) {
	raw, err := s.session.Token(ctx)
	if err != nil {
		return nil, err
	}
	token, err := jose.ParseSignedCompact(raw, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return nil, err
	}
	var claims map[string]any
	if err := json.Unmarshal(token.UnsafePayloadWithoutVerification(), &claims); err != nil {
		return nil, err
	}
	claims["iat"], claims["exp"] = issued.Unix(), issued.Add(5*time.Minute).Unix()
	return json.Marshal(claims)
}
