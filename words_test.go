package keyholder_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/fds-keyholder/keyholder"
)

// Ensure that a cut is asked for by a known kind and a well-formed ID only.
func TestParseTarget(t *testing.T) {
	kinds := []keyholder.TargetKind{
		keyholder.CutSubscription, keyholder.CutConsent, keyholder.CutAgreement, keyholder.CutApp, keyholder.CutProvider,
	}
	serials := []string{"1", "0", "4d2", "abcdef0123456789", strings.Repeat("f", 64)}
	badSerials := []string{"", "4D2", "0x4d2", "4d:d2", " 4d2", "4d2\n", "g", "-1", strings.Repeat("f", 65), "é"}
	accept := func(kind keyholder.TargetKind, id string, want bool) {
		t.Helper()
		got, err := keyholder.ParseTarget(string(kind), id)
		switch {
		case want && (err != nil || got != keyholder.Target{Kind: kind, ID: id}):
			t.Errorf("%s %q: got %+v, %v", kind, id, got, err)
		case !want && (keyholder.CodeOf(err) != keyholder.Invalid || got != keyholder.Target{}):
			t.Errorf("%s %q: got %+v, %v", kind, id, got, err)
		}
	}
	for _, kind := range kinds {
		accept(kind, goodID, true)
		for _, id := range slices.Concat(badIDs, serials) {
			accept(kind, id, false)
		}
	}
	for _, id := range serials {
		accept(keyholder.CutCertificate, id, true)
	}
	for _, id := range append(badSerials, goodID) {
		accept(keyholder.CutCertificate, id, false)
	}
	for _, kind := range []keyholder.TargetKind{"", "owner", "user", "Subscription", "subscriptions", "certificate", "subscription ", "grant"} {
		accept(kind, goodID, false)
		accept(kind, "4d2", false)
	}
}

// Ensure that both profiles, and whatever else is asked for, offer nothing
// below TLS 1.2 and nothing but ECDHE with an AEAD cipher (W2, M1).
func TestTLSConfig(t *testing.T) {
	secure := map[uint16]string{}
	for _, s := range tls.CipherSuites() {
		secure[s.ID] = s.Name
	}
	for profile, highest := range map[keyholder.TLSProfile]uint16{
		keyholder.TLSStrict: tls.VersionTLS12, keyholder.TLSModern: tls.VersionTLS13, "": tls.VersionTLS12, "none": tls.VersionTLS12,
	} {
		c := profile.Config()
		if c.MinVersion != tls.VersionTLS12 || c.MaxVersion != highest {
			t.Errorf("%q: from %x to %x", profile, c.MinVersion, c.MaxVersion)
		}
		if c.Renegotiation != tls.RenegotiateNever || c.InsecureSkipVerify || c.KeyLogWriter != nil {
			t.Errorf("%q: renegotiation %v, unverified %v", profile, c.Renegotiation, c.InsecureSkipVerify)
		}
		if len(c.CipherSuites) == 0 {
			t.Errorf("%q leaves the cipher suites to the default", profile)
		}
		for _, id := range c.CipherSuites {
			name := secure[id]
			if !strings.HasPrefix(name, "TLS_ECDHE_") || !strings.Contains(name, "_GCM_") && !strings.Contains(name, "_CHACHA20_POLY1305_") {
				t.Errorf("%q offers %s (%x)", profile, name, id)
			}
		}
		// The caller's changes stay the caller's.
		c.MinVersion, c.CipherSuites[0] = tls.VersionTLS10, tls.TLS_RSA_WITH_AES_128_CBC_SHA
		if again := profile.Config(); again.MinVersion != tls.VersionTLS12 || again.CipherSuites[0] == c.CipherSuites[0] {
			t.Errorf("%q: a caller changed the profile", profile)
		}
	}
}

// Ensure that the two profiles and no other name are known.
func TestParseTLSProfile(t *testing.T) {
	for _, s := range []string{"strict", "modern"} {
		if p, err := keyholder.ParseTLSProfile(s); err != nil || string(p) != s {
			t.Errorf("%q: %q, %v", s, p, err)
		}
	}
	for _, s := range []string{"", "Strict", "strict ", "none", "off", "1.2", "tls1.0"} {
		if p, err := keyholder.ParseTLSProfile(s); p != "" || keyholder.CodeOf(err) != keyholder.Invalid {
			t.Errorf("%q: %q, %v", s, p, err)
		}
	}
}

// Ensure that kinds are known by their exact names, that tags are not among
// those a provider stores, and which are pushed.
func TestKinds(t *testing.T) {
	want := map[keyholder.Kind]bool{ // whether it is pushed
		"specifications": false, "statuses": true, "statistics": true, "diagnostics": false, "events": true, "event_specifications": false, "spaces": false,
	}
	if len(keyholder.Kinds()) != len(want) {
		t.Errorf("kinds: %v", keyholder.Kinds())
	}
	for _, k := range keyholder.Kinds() {
		pushed, known := want[k]
		if !known || k.Pushed() != pushed {
			t.Errorf("%q: known %v, pushed %v", k, known, k.Pushed())
		}
		if got, err := keyholder.ParseKind(string(k)); err != nil || got != k {
			t.Errorf("%q: %q, %v", k, got, err)
		}
	}
	for _, s := range []string{"", "tag", "Statuses", "statuses ", "status", "statuses/x", "#", "+"} {
		if k, err := keyholder.ParseKind(s); k != "" || keyholder.CodeOf(err) != keyholder.Invalid {
			t.Errorf("%q: %q, %v", s, k, err)
		}
	}
	keyholder.Kinds()[0] = "changed"
	if keyholder.Kinds()[0] != keyholder.Specifications {
		t.Error("a caller changed the kinds")
	}
}

// Ensure that an error shows its detail only, keeps its cause for the log, is
// found by its code through wrapping, and that a hint changes no original.
func TestError(t *testing.T) {
	cause := io.ErrUnexpectedEOF
	e := &keyholder.Error{Code: keyholder.Conflict, Detail: "detail", Err: cause}
	wrapped := fmt.Errorf("do something: %w", e)
	if e.Error() != "detail" || !errors.Is(wrapped, cause) || keyholder.CodeOf(wrapped) != keyholder.Conflict {
		t.Errorf("%v, %v, %q", e, wrapped, keyholder.CodeOf(wrapped))
	}
	hinted := e.WithHint("try %d", 1)
	if hinted.Hint != "try 1" || e.Hint != "" || hinted.Code != e.Code || hinted.Detail != e.Detail || !errors.Is(hinted, cause) {
		t.Errorf("%+v of %+v", hinted, e)
	}
	for _, err := range []error{nil, cause, fmt.Errorf("x: %w", cause)} {
		if code := keyholder.CodeOf(err); code != "" {
			t.Errorf("%v has the code %q", err, code)
		}
	}
	if e := keyholder.Errorf(keyholder.Invalid, "%d of %s", 1, "x"); e.Detail != "1 of x" || e.Code != keyholder.Invalid {
		t.Errorf("%+v", e)
	}
}
