package pki

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"slices"
	"strings"
	"time"

	"github.com/fds-keyholder/keyholder"
)

const (
	listType = "X509 CRL"
	// maxLists bounds the PEM form of the revocation lists of one app, which
	// are read again at its handshakes: about 5,000 revoked certificates.
	maxLists = 256 << 10
)

// CheckRevocationLists says whether p.RevocationLists holds revocation lists
// (RFC 5280 5) of the authorities that are pinned for the app, one each, and
// nothing else; whether they are complete and in force at the time now; and
// whether none is older than that of the same authority in before, which may
// be empty. Errors are [keyholder.Error] of code Invalid, and Conflict if a list
// is older.
func CheckRevocationLists(p keyholder.PinnedAuthority, before string, now time.Time) error {
	if p.PEM == "" {
		return keyholder.Errorf(keyholder.Invalid, "no authority is pinned for the app")
	}
	lists, err := parseRevocationLists(p.RevocationLists)
	if err != nil {
		return err
	}
	authorities, err := parseCertificates([]byte(p.PEM))
	if err != nil {
		return err
	}
	old, err := parseRevocationLists(before)
	if before != "" && err != nil {
		return err
	}
	of := map[string]bool{}
	for _, l := range lists {
		switch issuer := string(l.RawIssuer); {
		case !slices.ContainsFunc(authorities, func(a *x509.Certificate) bool { return issued(a, l) }):
			return keyholder.Errorf(keyholder.Invalid, "a revocation list is not signed by an authority that is pinned for the app").
				WithHint("pin the authority that signs both the certificates of the app and this list, an intermediate one if there is one")
		case of[issuer]:
			return keyholder.Errorf(keyholder.Invalid, "two revocation lists are of one authority")
		case slices.ContainsFunc(l.Extensions, func(e pkix.Extension) bool { return e.Critical }):
			return keyholder.Errorf(keyholder.Invalid, "a revocation list is not a complete one").
				WithHint("give the full list of the authority, neither a delta nor one of a part of its certificates")
		case now.Before(l.ThisUpdate.Add(-skew)) || l.NextUpdate.IsZero() || now.After(l.NextUpdate):
			return keyholder.Errorf(keyholder.Invalid, "a revocation list is not in force now: it is from %s until %s",
				l.ThisUpdate.UTC().Format(time.RFC3339), l.NextUpdate.UTC().Format(time.RFC3339))
		default:
			of[issuer] = true
		}
		for _, o := range old {
			if bytes.Equal(o.RawIssuer, l.RawIssuer) && older(l, o) {
				return keyholder.Errorf(keyholder.Conflict, "a revocation list is older than the one on record")
			}
		}
	}
	return nil
}

// older says whether l came before o, of the same authority.
func older(l, o *x509.RevocationList) bool {
	if l.Number != nil && o.Number != nil {
		return l.Number.Cmp(o.Number) < 0
	}
	return l.ThisUpdate.Before(o.ThisUpdate)
}

// issued says whether an authority signed a list.
func issued(authority *x509.Certificate, l *x509.RevocationList) bool {
	return bytes.Equal(authority.RawSubject, l.RawIssuer) && l.CheckSignatureFrom(authority) == nil
}

// Revoked says whether the authority pinned for an app has revoked the
// certificate, in PEM with or without others after it, by one of its lists.
func Revoked(p keyholder.PinnedAuthority, certificate string) (bool, error) {
	block, _ := pem.Decode([]byte(certificate))
	if block == nil {
		return false, keyholder.Errorf(keyholder.Invalid, "the certificate is not PEM")
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return false, &keyholder.Error{Code: keyholder.Invalid, Detail: "the certificate is malformed", Err: err}
	}
	lists, err := parseRevocationLists(p.RevocationLists)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(lists, func(l *x509.RevocationList) bool { return bytes.Equal(l.RawIssuer, c.RawIssuer) && holds(l, c) }), nil
}

// holds says whether a list has a certificate of its authority.
func holds(l *x509.RevocationList, c *x509.Certificate) bool {
	return slices.ContainsFunc(l.RevokedCertificateEntries, func(e x509.RevocationListEntry) bool { return e.SerialNumber.Cmp(c.SerialNumber) == 0 })
}

// RevocationListPEM is a revocation list in PEM: as it is, or made of DER.
// Errors are [keyholder.Error] of code Invalid if it is none.
func RevocationListPEM(in []byte) (string, error) {
	text := string(in)
	if !strings.Contains(text, "-----BEGIN ") {
		text = string(pem.EncodeToMemory(&pem.Block{Type: listType, Bytes: in}))
	}
	_, err := parseRevocationLists(text)
	return text, err
}

// RevocationListsEnd returns when the first of the revocation lists of a
// pinned authority ends; zero if it has none.
func RevocationListsEnd(p keyholder.PinnedAuthority) (until time.Time) {
	lists, err := parseRevocationLists(p.RevocationLists)
	if err != nil {
		return time.Time{}
	}
	for _, l := range lists {
		if until.IsZero() || l.NextUpdate.Before(until) {
			until = l.NextUpdate
		}
	}
	return until
}

// checkRevocation refuses a verified chain, the client's certificate first, of
// which the pinned authority has revoked a certificate. Where an app has
// revocation lists, the authority that issued its certificate must have one in
// force: what is not known to be in force is not.
func checkRevocation(p keyholder.PinnedAuthority, chain []*x509.Certificate, now time.Time) error {
	if p.RevocationLists == "" {
		return nil
	}
	lists, err := parseRevocationLists(p.RevocationLists)
	if err != nil {
		return err
	}
	for i, c := range chain[:len(chain)-1] {
		n := slices.IndexFunc(lists, func(l *x509.RevocationList) bool { return issued(chain[i+1], l) })
		switch {
		case n < 0 && i > 0:
			// An authority on the way, whose own revocation nobody lists.
		case n < 0:
			return keyholder.Errorf(keyholder.Denied, "the authority of the client certificate has no revocation list here")
		case now.After(lists[n].NextUpdate):
			return keyholder.Errorf(keyholder.Denied, "the revocation list of a client certificate has ended")
		case holds(lists[n], c):
			return keyholder.Errorf(keyholder.Denied, "the client certificate was revoked by its authority")
		}
	}
	return nil
}

// parseRevocationLists reads revocation lists in PEM and nothing else.
func parseRevocationLists(in string) ([]*x509.RevocationList, error) {
	if len(in) > maxLists {
		return nil, keyholder.Errorf(keyholder.Invalid, "the revocation lists are longer than %d KiB", maxLists>>10)
	}
	var lists []*x509.RevocationList
	for rest := strings.TrimSpace(in); len(rest) > 0; {
		block, after := pem.Decode([]byte(rest))
		if block == nil || block.Type != listType || !strings.HasPrefix(rest, "-----BEGIN "+listType+"-----") || len(lists) == maxCertificates {
			return nil, keyholder.Errorf(keyholder.Invalid, "not 1 to %d PEM blocks of type %s and nothing else", maxCertificates, listType).
				WithHint("`openssl crl -inform DER` makes PEM of the other form")
		}
		l, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return nil, &keyholder.Error{Code: keyholder.Invalid, Detail: "a revocation list is malformed", Err: err}
		}
		lists, rest = append(lists, l), strings.TrimSpace(string(after))
	}
	if len(lists) == 0 {
		return nil, keyholder.Errorf(keyholder.Invalid, "no revocation list")
	}
	return lists, nil
}
