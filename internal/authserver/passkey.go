package authserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/webauthn"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// newRelyingParty returns the WebAuthn relying party: its ID is the issuer's
// host, its only origin the issuer. It is nil where the issuer is an address:
// passkeys are for names only.
func newRelyingParty(issuer string) (*webauthn.WebAuthn, error) {
	u, err := url.Parse(issuer)
	if err != nil {
		return nil, fmt.Errorf("read the issuer: %w", err)
	}
	if _, err := netip.ParseAddr(u.Hostname()); err == nil {
		return nil, nil
	}
	rp, err := webauthn.New(&webauthn.Config{
		RPID: u.Hostname(), RPDisplayName: "Keyholder", RPOrigins: []string{issuer},
		AttestationPreference: protocol.PreferNoAttestation,
		AuthenticatorSelection: protocol.AuthenticatorSelection{
			ResidentKey: protocol.ResidentKeyRequirementRequired, RequireResidentKey: protocol.ResidentKeyRequired(),
			UserVerification: protocol.VerificationRequired,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("set up passkeys: %w", err)
	}
	return rp, nil
}

// holder is a user as the WebAuthn library asks for one.
type holder struct {
	user keyholder.User
	keys []ledger.Passkey
}

// WebAuthnID is part of webauthn.User: the handle that a passkey carries.
func (h *holder) WebAuthnID() []byte { return []byte(h.user.ID) }

// WebAuthnName is part of webauthn.User.
func (h *holder) WebAuthnName() string { return h.user.Login }

// WebAuthnDisplayName is part of webauthn.User.
func (h *holder) WebAuthnDisplayName() string { return h.user.Login }

// WebAuthnCredentials is part of webauthn.User.
func (h *holder) WebAuthnCredentials() []webauthn.Credential {
	out := make([]webauthn.Credential, len(h.keys))
	for i, k := range h.keys {
		out[i] = webauthn.Credential{ID: k.ID, PublicKey: k.PublicKey, Flags: webauthn.CredentialFlags{BackupEligible: k.Synced},
			Authenticator: webauthn.Authenticator{SignCount: k.SignCount}}
		for _, t := range k.Transports {
			out[i].Transport = append(out[i].Transport, protocol.AuthenticatorTransport(t))
		}
	}
	return out
}

func (s *Server) holder(ctx context.Context, user keyholder.UserID) (*holder, error) {
	keys, err := s.ledger.PasskeysOf(ctx, user)
	return &holder{s.ledger.User(user), keys}, err
}

var errNoPasskeys = keyholder.Errorf(keyholder.Denied, "passkeys need an issuer with a name")

// beginPasskey begins a sign-in by passkey: of anybody, or of the attempt's
// user if one is known. It returns the options for the browser.
func (s *Server) beginPasskey(ctx context.Context, a *attempt) ([]byte, error) {
	if s.relyingParty == nil {
		return nil, errNoPasskeys
	}
	var options *protocol.CredentialAssertion
	var err error
	if a.User == "" {
		options, a.Challenge, err = s.relyingParty.BeginDiscoverableLogin()
	} else {
		var h *holder
		if h, err = s.holder(ctx, a.User); err != nil {
			return nil, err
		}
		if len(h.keys) == 0 {
			return nil, keyholder.Errorf(keyholder.Denied, "the user has no passkey")
		}
		options, a.Challenge, err = s.relyingParty.BeginLogin(h)
	}
	if err != nil {
		return nil, fmt.Errorf("begin a sign-in by passkey: %w", err)
	}
	return json.Marshal(options.Response)
}

// beginRegistration begins the registration of a further passkey.
func (s *Server) beginRegistration(ctx context.Context, a *attempt) ([]byte, error) {
	if s.relyingParty == nil {
		return nil, errNoPasskeys
	}
	h, err := s.holder(ctx, a.User)
	if err != nil {
		return nil, err
	}
	var options *protocol.CredentialCreation
	options, a.Challenge, err = s.relyingParty.BeginRegistration(h,
		webauthn.WithExclusions(webauthn.Credentials(h.WebAuthnCredentials()).CredentialDescriptors()))
	if err != nil {
		return nil, fmt.Errorf("begin the registration of a passkey: %w", err)
	}
	return json.Marshal(options.Response)
}

// takeChallenge returns the challenge of the ceremony in progress, which is
// spent by it, whatever comes of it and however many ask at once.
func (s *Server) takeChallenge(ctx context.Context, a *attempt) (webauthn.SessionData, error) {
	if s.relyingParty == nil || a.Challenge == nil {
		return webauthn.SessionData{}, keyholder.Errorf(keyholder.Denied, "no ceremony with a passkey was begun")
	}
	challenge := *a.Challenge
	a.Challenge = nil
	err := s.ledger.ConsumeJTI(ctx, digest("webauthn\x00"+challenge.Challenge), s.now().Add(jtiMemory))
	if keyholder.CodeOf(err) == keyholder.Conflict {
		return challenge, keyholder.Errorf(keyholder.Denied, "the challenge was used before")
	}
	return challenge, err
}

// checkPasskey verifies what a passkey has signed. Errors: Denied.
func (s *Server) checkPasskey(ctx context.Context, a *attempt, credential string) (keyholder.UserID, keyholder.Factor, error) {
	challenge, err := s.takeChallenge(ctx, a)
	if err != nil {
		return "", "", err
	}
	signed, err := protocol.ParseCredentialRequestResponseBytes([]byte(credential))
	if err != nil {
		return "", "", s.refusePasskey(ctx, a.User, err)
	}
	key, err := s.ledger.Passkey(ctx, signed.RawID)
	if err != nil && keyholder.CodeOf(err) != keyholder.NotFound {
		return "", "", err
	}
	if key.User == "" || a.User != "" && key.User != a.User {
		return "", "", s.refusePasskey(ctx, a.User, errors.New("the passkey is not of the user"))
	}
	h, err := s.holder(ctx, key.User)
	if err != nil {
		return "", "", err
	}
	if a.User == "" {
		_, _, err = s.relyingParty.ValidatePasskeyLogin(func([]byte, []byte) (webauthn.User, error) { return h, nil }, challenge, signed)
	} else {
		_, err = s.relyingParty.ValidateLogin(h, challenge, signed)
	}
	if err != nil {
		return "", "", s.refusePasskey(ctx, key.User, err)
	}
	return key.User, key.Factor(), s.ledger.UsePasskey(ctx, key.ID, signed.Response.AuthenticatorData.Counter)
}

// refusePasskey audits a failure, within the limits of refusals, and makes a denial of it.
func (s *Server) refusePasskey(ctx context.Context, user keyholder.UserID, cause error) error {
	if _, ok := s.denials.Allow("passkey of " + string(user)); ok {
		if err := s.ledger.FailSignIn(ctx, user, keyholder.FactorPasskey, passkeyProblem(cause)); err != nil {
			return err
		}
	}
	return &keyholder.Error{Code: keyholder.Denied, Detail: "the passkey was not accepted", Err: cause}
}

// passkeyProblem is the library's reason, without the values it compared.
func passkeyProblem(err error) string {
	if e := new(protocol.Error); errors.As(err, &e) {
		return e.Details
	}
	return err.Error()
}

// addPasskey registers the passkey that the browser made. It returns the
// recovery codes if the user had none. Errors: Denied, Invalid, Conflict.
func (s *Server) addPasskey(ctx context.Context, a *attempt, name, credential string) ([]string, error) {
	challenge, err := s.takeChallenge(ctx, a)
	if err != nil {
		return nil, err
	}
	made, err := protocol.ParseCredentialCreationResponseBytes([]byte(credential))
	if err != nil {
		return nil, s.refusePasskey(ctx, a.User, err)
	}
	h, err := s.holder(ctx, a.User)
	if err != nil {
		return nil, err
	}
	c, err := s.relyingParty.CreateCredential(h, challenge, made)
	if err != nil {
		return nil, s.refusePasskey(ctx, a.User, err)
	}
	key := ledger.Passkey{ID: c.ID, User: a.User, Name: name, PublicKey: c.PublicKey, Synced: c.Flags.BackupEligible, SignCount: c.Authenticator.SignCount}
	for _, t := range c.Transport {
		key.Transports = append(key.Transports, string(t))
	}
	return s.ledger.AddPasskey(ctx, key)
}

// serveScript serves the only script there is, for passkeys.
func (s *Server) serveScript(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/javascript; charset=utf-8")
	_, _ = w.Write(s.pages.script)
}
