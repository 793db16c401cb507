package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"slices"

	"github.com/fds-keyholder/keyholder"
)

const (
	// maxRequest bounds a request in PEM. One with a 4096-bit RSA key takes
	// less than 2 KiB.
	maxRequest = 16 << 10

	requestType = "CERTIFICATE REQUEST"
	keyType     = "PRIVATE KEY"

	minRSA, maxRSA = 2048, 4096 // bits; the upper bound keeps verification cheap
)

// Request is a checked certificate signing request. Nothing of it but the key
// reaches a certificate.
type Request struct {
	key crypto.PublicKey
}

// ParseRequest reads a certificate signing request (PKCS #10, RFC 2986): at
// most 16 KiB of PEM with exactly one block, signed with SHA-256 or better by
// the key it holds, which is P-256, P-384 or RSA of 2048 to 4096 bits. Names,
// attributes and extensions in it are ignored. Every error is an
// [keyholder.Error] of code Invalid that repeats nothing of the input.
func ParseRequest(csrPEM []byte) (*Request, error) {
	hint := "make one with `openssl req -new -key KEY -subj /CN=x` or `keyholder cert request`"
	block, err := requestBlock(csrPEM)
	if err != nil {
		return nil, err.WithHint("%s", hint)
	}
	csr, parseErr := x509.ParseCertificateRequest(block)
	if parseErr != nil {
		return nil, &keyholder.Error{Code: keyholder.Invalid, Detail: "the certificate signing request is malformed", Hint: hint, Err: parseErr}
	}
	// The key is looked at before the signature: checking a signature by an
	// oversize key is the costly part.
	if err := checkKey(csr.PublicKey); err != nil {
		return nil, err
	}
	if !slices.Contains(requestAlgorithms(), csr.SignatureAlgorithm) {
		return nil, keyholder.Errorf(keyholder.Invalid, "the certificate signing request is signed with an unknown or weak algorithm").
			WithHint("sign it with SHA-256")
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, &keyholder.Error{Code: keyholder.Invalid, Detail: "the certificate signing request is not signed by the key it holds", Hint: hint, Err: err}
	}
	return &Request{key: csr.PublicKey}, nil
}

// requestBlock returns the DER form of the one block that the input may hold.
func requestBlock(in []byte) ([]byte, *keyholder.Error) {
	if len(in) > maxRequest {
		return nil, keyholder.Errorf(keyholder.Invalid, "the certificate signing request is longer than %d bytes", maxRequest)
	}
	in = bytes.TrimSpace(in)
	switch {
	case bytes.Contains(in, []byte(keyType)):
		// Better said plainly: a key sent to anyone must be thrown away.
		return nil, keyholder.Errorf(keyholder.Invalid, "this holds a private key, which must never leave its owner; only the request is to be sent")
	case !bytes.HasPrefix(in, []byte("-----BEGIN "+requestType+"-----")), bytes.Count(in, []byte("-----BEGIN")) != 1:
		return nil, keyholder.Errorf(keyholder.Invalid, "not exactly one PEM block of type %s", requestType)
	}
	block, rest := pem.Decode(in)
	switch {
	case block == nil || block.Type != requestType:
		return nil, keyholder.Errorf(keyholder.Invalid, "the PEM block is malformed")
	case len(block.Headers) != 0:
		return nil, keyholder.Errorf(keyholder.Invalid, "the PEM block has headers")
	case len(rest) != 0:
		return nil, keyholder.Errorf(keyholder.Invalid, "something follows the PEM block")
	}
	return block.Bytes, nil
}

func requestAlgorithms() []x509.SignatureAlgorithm {
	return []x509.SignatureAlgorithm{
		x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512,
		x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA,
		x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS,
	}
}

func checkKey(key crypto.PublicKey) error {
	refused := keyholder.Errorf(keyholder.Invalid, "the key of the certificate signing request is not one that is accepted").
		WithHint("use a P-256 key; P-384 and RSA of %d to %d bits with exponent 65537 are accepted too", minRSA, maxRSA)
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() {
			return refused
		}
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < minRSA || bits > maxRSA || k.N.Bit(0) == 0 || k.E != 65537 {
			return refused
		}
	default:
		return refused
	}
	return nil
}

// NewKey makes a P-256 key for a client and returns it as PKCS #8 in PEM. It
// is to be stored with mode 0600 where it was made and sent nowhere.
func NewKey() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return encodeKey(key)
}

// NewRequest makes a certificate signing request, in PEM, for a key as
// [NewKey] returns it. The name stands in it for people only; the authority
// takes the subject from what the request is for.
func NewRequest(keyPEM []byte, name string) ([]byte, error) {
	key, err := decodeKey(keyPEM)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate signing request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: requestType, Bytes: der}), nil
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: keyType, Bytes: der}), nil
}

// decodeKey reads what encodeKey wrote, or an [keyholder.Error] of code
// Invalid that repeats nothing of the input.
func decodeKey(in []byte) (crypto.Signer, error) {
	block, rest := pem.Decode(in)
	if block == nil || block.Type != keyType || len(bytes.TrimSpace(rest)) != 0 {
		return nil, keyholder.Errorf(keyholder.Invalid, "not exactly one PEM block of type %s", keyType)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		// The cause is left out: it may quote the key.
		return nil, keyholder.Errorf(keyholder.Invalid, "the private key is malformed")
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, keyholder.Errorf(keyholder.Invalid, "the private key cannot sign")
	}
	return key, nil
}
