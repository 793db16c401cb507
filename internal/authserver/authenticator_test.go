package authserver_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"net/url"
	"testing"

	"github.com/fds-keyholder/keyholder"
)

// Flags of authenticator data (WebAuthn 6.1).
const (
	userPresent  = 1 << 0
	userVerified = 1 << 2
	attested     = 1 << 6
)

// authenticator is a passkey in software, built from the WebAuthn text alone.
// A test changes its fields to make it say what a real one would not.
type authenticator struct {
	t      testing.TB
	key    *ecdsa.PrivateKey
	id     []byte
	user   []byte
	origin string
	rpID   string
	flags  byte
	count  uint32
	typ    string // of the client data; empty: the right one
}

func (b *bench) newAuthenticator() *authenticator {
	b.t.Helper()
	id := make([]byte, 16)
	rand.Read(id)
	return &authenticator{t: b.t, key: must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)), id: id, origin: b.issuer,
		rpID: must(url.Parse(b.issuer)).Hostname(), flags: userPresent | userVerified}
}

var b64 = base64.RawURLEncoding

func (a *authenticator) clientData(typ, challenge string) []byte {
	if a.typ != "" {
		typ = a.typ
	}
	return must(json.Marshal(map[string]any{"type": typ, "challenge": challenge, "origin": a.origin, "crossOrigin": false}))
}

func (a *authenticator) data(flags byte) []byte {
	hash := sha256.Sum256([]byte(a.rpID))
	out := append(hash[:], a.flags|flags)
	return binary.BigEndian.AppendUint32(out, a.count)
}

// create answers the options of a registration.
func (a *authenticator) create(options string) string {
	var o struct {
		Challenge string `json:"challenge"`
		User      struct {
			ID string `json:"id"`
		} `json:"user"`
	}
	if err := json.Unmarshal([]byte(options), &o); err != nil {
		a.t.Fatal(err)
	}
	a.user = must(b64.DecodeString(o.User.ID))
	data := a.data(attested)
	data = append(data, make([]byte, 16)...) // AAGUID
	data = binary.BigEndian.AppendUint16(data, uint16(len(a.id)))
	data = append(data, a.id...)
	point := must(a.key.PublicKey.Bytes()) // 4, x, y
	data = append(data, 0xa5, 0x01, 0x02, 0x03, 0x26, 0x20, 0x01, 0x21, 0x58, 0x20)
	data = append(data, point[1:33]...)
	data = append(data, 0x22, 0x58, 0x20)
	data = append(data, point[33:]...)
	object := []byte{0xa3, 0x63, 'f', 'm', 't', 0x64, 'n', 'o', 'n', 'e', 0x67, 'a', 't', 't', 'S', 't', 'm', 't', 0xa0, 0x68, 'a', 'u', 't', 'h', 'D', 'a', 't', 'a', 0x58, byte(len(data))}
	object = append(object, data...)
	return a.credential(map[string]any{"clientDataJSON": b64.EncodeToString(a.clientData("webauthn.create", o.Challenge)),
		"attestationObject": b64.EncodeToString(object), "transports": []string{"internal"}})
}

// get answers the options of a sign-in.
func (a *authenticator) get(options string) string {
	var o struct {
		Challenge string `json:"challenge"`
	}
	if err := json.Unmarshal([]byte(options), &o); err != nil {
		a.t.Fatal(err)
	}
	a.count++
	client, data := a.clientData("webauthn.get", o.Challenge), a.data(0)
	clientHash := sha256.Sum256(client)
	signed := sha256.Sum256(append(append([]byte{}, data...), clientHash[:]...))
	return a.credential(map[string]any{"clientDataJSON": b64.EncodeToString(client), "authenticatorData": b64.EncodeToString(data),
		"signature": b64.EncodeToString(must(ecdsa.SignASN1(rand.Reader, a.key, signed[:]))), "userHandle": b64.EncodeToString(a.user)})
}

func (a *authenticator) credential(response map[string]any) string {
	return string(must(json.Marshal(map[string]any{"id": b64.EncodeToString(a.id), "rawId": b64.EncodeToString(a.id), "type": "public-key",
		"response": response, "clientExtensionResults": map[string]any{}})))
}

// options asks, as the script does, what the passkey has to do.
func (w *browser) options(action string) string {
	w.b.t.Helper()
	address, fields := w.form()
	probe := *w
	probe.send(address, with(fields, "action", action))
	if probe.page.status != 200 || probe.page.header.Get("Content-Type") != "application/json" {
		w.b.t.Fatalf("the options of %s: status %d\n%s", action, probe.page.status, probe.page.body)
	}
	return probe.page.body
}

// register adds a passkey on the account page of a signed-in user and returns
// the page that answers.
func (w *browser) register(a *authenticator) *browser {
	w.b.t.Helper()
	return w.submit("action", "passkey-add", "name", "Phone", "credential", a.create(w.options("passkey-new")))
}

// account signs a user in to the account page.
func (b *bench) account(user keyholder.User) *browser {
	b.t.Helper()
	return b.browser().open(b.issuer+"/account").submit("action", "signin", "login", user.Login, "password", password)
}
