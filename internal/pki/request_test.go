package pki_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" // for a request that must be refused
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/pki"
)

func ecKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func rsaKey(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func csrDER(t testing.TB, key crypto.Signer, template x509.CertificateRequest) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func csrPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

// Ensure that requests with the accepted keys and algorithms are read,
// whatever they say beside.
func TestParseRequestAccepts(t *testing.T) {
	for _, tt := range []struct {
		name string
		key  crypto.Signer
		alg  x509.SignatureAlgorithm
	}{
		{"P-256", ecKey(t, elliptic.P256()), 0},
		{"P-256 with SHA-512", ecKey(t, elliptic.P256()), x509.ECDSAWithSHA512},
		{"P-384", ecKey(t, elliptic.P384()), 0},
		{"RSA 2048", rsaKey(t, 2048), 0},
		{"RSA 3072 PSS", rsaKey(t, 3072), x509.SHA256WithRSAPSS},
	} {
		in := csrPEM(csrDER(t, tt.key, x509.CertificateRequest{SignatureAlgorithm: tt.alg}))
		for name, in := range map[string][]byte{
			"plain": in, "CRLF": bytes.ReplaceAll(in, []byte("\n"), []byte("\r\n")), "blank lines around": append([]byte("\n\n"), append(in, "\n \n"...)...),
		} {
			if _, err := pki.ParseRequest(in); err != nil {
				t.Errorf("%s, %s: %v", tt.name, name, err)
			}
		}
	}
}

// Ensure that malformed, weak, unsigned and accompanied requests give Invalid
// with something to do about it.
func TestParseRequestRefuses(t *testing.T) {
	key := ecKey(t, elliptic.P256())
	der := csrDER(t, key, x509.CertificateRequest{})
	good := csrPEM(der)
	if _, err := pki.ParseRequest(good); err != nil {
		t.Fatal(err)
	}
	keyPEM, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block := func(typ string, headers map[string]string, der []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: typ, Headers: headers, Bytes: der})
	}
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	tampered := bytes.Clone(der)
	tampered[len(tampered)-1] ^= 1
	// A request for one key with the signature of another: no proof that the
	// sender holds the key.
	stolen := swapKey(t, der, csrDER(t, ecKey(t, elliptic.P256()), x509.CertificateRequest{}))

	for _, tt := range []struct {
		name string
		in   []byte
	}{
		{"empty", nil},
		{"blank", []byte(" \n\t ")},
		{"text", []byte("please give me a certificate")},
		{"DER", der},
		{"oversize", append(bytes.Clone(good), bytes.Repeat([]byte("\n"), 16<<10)...)},
		{"certificate", block("CERTIFICATE", nil, der)},
		{"legacy name", block("NEW CERTIFICATE REQUEST", nil, der)},
		{"PEM headers", block("CERTIFICATE REQUEST", map[string]string{"Proc-Type": "4,ENCRYPTED"}, der)},
		{"text before", join([]byte("Certificate Request:\n"), good)},
		{"text behind", join(good, []byte("x"))},
		{"twice", join(good, good)},
		{"second block broken", join(good, []byte("-----BEGIN CERTIFICATE REQUEST-----\n"))},
		{"first block broken", join([]byte("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n"), good)},
		{"private key behind", join(good, keyPEM)},
		{"private key before", join(keyPEM, good)},
		{"private key alone", keyPEM},
		{"no end", good[:len(good)-10]},
		{"no base64", []byte("-----BEGIN CERTIFICATE REQUEST-----\n!!!!\n-----END CERTIFICATE REQUEST-----\n")},
		{"empty block", block("CERTIFICATE REQUEST", nil, nil)},
		{"no DER", csrPEM([]byte("nonsense"))},
		{"DER with more behind", csrPEM(append(bytes.Clone(der), 0))},
		{"DER cut off", csrPEM(der[:len(der)-1])},
		{"signature tampered", csrPEM(tampered)},
		{"signature of another key", csrPEM(stolen)},
		{"signed with SHA-1", csrPEM(signedWithSHA1(t, key, der))},
		{"P-224", csrPEM(csrDER(t, ecKey(t, elliptic.P224()), x509.CertificateRequest{}))},
		{"P-521", csrPEM(csrDER(t, ecKey(t, elliptic.P521()), x509.CertificateRequest{}))},
		{"Ed25519", csrPEM(csrDER(t, ed, x509.CertificateRequest{}))},
		{"RSA 1024", csrPEM(csrDER(t, rsaKey(t, 1024), x509.CertificateRequest{}))},
		{"RSA 8192", csrPEM(unsignedRSA(t, 8192, 65537))},
		{"RSA 2048 with exponent 3", csrPEM(unsignedRSA(t, 2048, 3))},
		{"RSA 2048 with an even modulus", csrPEM(unsignedRSA(t, -2048, 65537))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := pki.ParseRequest(tt.in)
			if r != nil || keyholder.CodeOf(err) != keyholder.Invalid {
				t.Fatalf("got %v, %v", r, err)
			}
			var e *keyholder.Error
			if !errors.As(err, &e) || e.Hint == "" {
				t.Errorf("no hint: %v", err)
			}
		})
	}
}

// pkcs10 is the outer shape of a request.
type pkcs10 struct {
	Info      asn1.RawValue
	Algorithm pkix.AlgorithmIdentifier
	Signature asn1.BitString
}

// swapKey returns the first request with the second one's signed part.
func swapKey(t *testing.T, a, b []byte) []byte {
	t.Helper()
	var x, y pkcs10
	if _, err := asn1.Unmarshal(a, &x); err != nil {
		t.Fatal(err)
	}
	if _, err := asn1.Unmarshal(b, &y); err != nil {
		t.Fatal(err)
	}
	x.Info = y.Info
	out, err := asn1.Marshal(x)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// signedWithSHA1 returns the request with a right signature over a SHA-1 hash.
func signedWithSHA1(t *testing.T, key *ecdsa.PrivateKey, der []byte) []byte {
	t.Helper()
	var r pkcs10
	if _, err := asn1.Unmarshal(der, &r); err != nil {
		t.Fatal(err)
	}
	sum := sha1.Sum(r.Info.FullBytes)
	signature, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	r.Algorithm = pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 1}}
	r.Signature = asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}
	out, err := asn1.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if csr, err := x509.ParseCertificateRequest(out); err != nil || csr.SignatureAlgorithm != x509.ECDSAWithSHA1 || csr.CheckSignature() != nil {
		t.Fatalf("the test's own request is not signed with SHA-1: %v", err)
	}
	return out
}

// unsignedRSA returns a request with an RSA key that is given by its size and
// exponent only, and a signature that cannot be right. A negative size means
// an even modulus.
func unsignedRSA(t *testing.T, bits, exponent int) []byte {
	t.Helper()
	size, last := bits, byte(1)
	if bits < 0 {
		size, last = -bits, 0
	}
	modulus := bytes.Repeat([]byte{0xc3}, size/8)
	modulus[len(modulus)-1] = 0xc2 | last
	spki, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: exponent})
	if err != nil {
		t.Fatal(err)
	}
	type info struct {
		Version    int
		Subject    pkix.RDNSequence
		Key        asn1.RawValue
		Attributes asn1.RawValue
	}
	raw, err := asn1.Marshal(info{
		Key:        asn1.RawValue{FullBytes: spki},
		Attributes: asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	out, err := asn1.Marshal(pkcs10{
		Info:      asn1.RawValue{FullBytes: raw},
		Algorithm: pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, Parameters: asn1.NullRawValue},
		Signature: asn1.BitString{Bytes: make([]byte, size/8), BitLength: size},
	})
	if err != nil {
		t.Fatal(err)
	}
	if csr, err := x509.ParseCertificateRequest(out); err != nil || csr.PublicKey.(*rsa.PublicKey).E != exponent {
		t.Fatalf("the test's own request is malformed: %v", err)
	}
	return out
}

// Ensure that a private key that was sent by mistake is called one, and that
// no error repeats anything of the input.
func TestParseRequestTellsNothing(t *testing.T) {
	keyPEM, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	_, err = pki.ParseRequest(keyPEM)
	if err == nil || !strings.Contains(err.Error(), "private key") {
		t.Errorf("got %v", err)
	}
	body := strings.Split(string(keyPEM), "\n")[1]
	var e *keyholder.Error
	if errors.As(err, &e) && strings.Contains(e.Detail+e.Hint, body[:8]) {
		t.Error("the error holds key material")
	}
	for _, in := range []string{"", "x", string(keyPEM) + "x", strings.ReplaceAll(string(keyPEM), "PRIVATE KEY", "EC PRIVATE KEY"), "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"} {
		if _, err := pki.NewRequest([]byte(in), "x"); keyholder.CodeOf(err) != keyholder.Invalid || strings.Contains(err.Error(), body[:8]) {
			t.Errorf("NewRequest: %v", err)
		}
	}
}

// Ensure that an evil request changes nothing in the certificate: names,
// authority, usages and unknown extensions come from the template (SR-47).
func TestSignIgnoresRequest(t *testing.T) {
	a, _ := open(t, start)
	key := ecKey(t, elliptic.P256())
	authority, err := asn1.Marshal(struct{ CA bool }{true})
	if err != nil {
		t.Fatal(err)
	}
	anyUsage, err := asn1.Marshal([]asn1.ObjectIdentifier{{2, 5, 29, 37, 0}})
	if err != nil {
		t.Fatal(err)
	}
	evil := x509.CertificateRequest{
		Subject:     pkix.Name{CommonName: "00000000-0000-4000-8000-000000000000", Organization: []string{"Evil"}, OrganizationalUnit: []string{"Root"}},
		DNSNames:    []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		URIs:        []*url.URL{{Scheme: "urn", Opaque: "uuid:00000000-0000-4000-8000-000000000000"}},
		ExtraExtensions: []pkix.Extension{
			{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: authority},
			{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Value: anyUsage},
			{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: bytes.Repeat([]byte{5}, 4096)},
		},
	}
	r, err := pki.ParseRequest(csrPEM(csrDER(t, key, evil)))
	if err != nil {
		t.Fatal(err)
	}
	bundle, _, err := a.Sign(r, keyholder.ForSubscription, subject, start, start.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	_, plain := request(t)
	control, _, err := a.Sign(plain, keyholder.ForSubscription, subject, start, start.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	got, want := certificates(t, bundle)[0], certificates(t, control)[0]
	if !key.PublicKey.Equal(got.PublicKey) {
		t.Error("the key is not the request's")
	}
	if !bytes.Equal(got.RawSubject, want.RawSubject) {
		t.Errorf("subject %s", got.Subject)
	}
	for i, e := range want.Extensions {
		if i >= len(got.Extensions) || !got.Extensions[i].Id.Equal(e.Id) || got.Extensions[i].Critical != e.Critical {
			t.Fatalf("extensions %v, want %v", extensions(got), extensions(want))
		}
		// All but the identifier of the key must be the same bytes.
		if e.Id.String() != "2.5.29.14" && !bytes.Equal(got.Extensions[i].Value, e.Value) {
			t.Errorf("extension %s differs", e.Id)
		}
	}
	if len(got.Extensions) != len(want.Extensions) {
		t.Errorf("%d extensions, want %d", len(got.Extensions), len(want.Extensions))
	}
}

// FuzzParseRequest looks for a panic, and for an accepted input that is not
// exactly one well-formed request.
func FuzzParseRequest(f *testing.F) {
	good := csrPEM(csrDER(f, ecKey(f, elliptic.P256()), x509.CertificateRequest{Subject: pkix.Name{CommonName: "x"}}))
	f.Add(good)
	f.Add(csrPEM(csrDER(f, rsaKey(f, 2048), x509.CertificateRequest{DNSNames: []string{"a.org"}})))
	f.Add(append(bytes.Clone(good), good...))
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := pki.ParseRequest(in)
		if err != nil {
			if r != nil || keyholder.CodeOf(err) != keyholder.Invalid {
				t.Errorf("got %v, %v", r, err)
			}
			return
		}
		block, rest := pem.Decode(in)
		if len(in) > 16<<10 || block == nil || len(bytes.TrimSpace(rest)) != 0 || bytes.Count(in, []byte("BEGIN")) != 1 {
			t.Fatalf("accepted %q", in)
		}
		csr, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil || csr.CheckSignature() != nil {
			t.Errorf("accepted an unsigned request: %v", err)
		}
	})
}
