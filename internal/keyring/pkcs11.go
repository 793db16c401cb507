//go:build cgo

package keyring

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"errors"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/ThalesGroup/crypto11"
	"github.com/miekg/pkcs11"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/keyfile"
)

const (
	maxSessions = 32              // with the HSM at once; further signatures wait
	sessionWait = 5 * time.Second // for one of them
	retryAfter  = time.Second     // between attempts to reach an HSM that is gone
)

// errGone is the cause when the HSM is not asked again yet.
var errGone = errors.New("it was asked a moment ago")

// pkcs11Token is a token behind a module of PKCS #11. A failure of the module
// ends its sessions, and with them the handles of keys: the next use opens
// them again.
type pkcs11Token struct {
	hsm HSM

	mu      sync.RWMutex // shared: the link is in use; exclusive: it changes
	link    *link        // nil: there is none
	tried   time.Time    // when one was last tried for in vain
	refused []byte       // the PIN that the HSM did not take, which is not tried again: tokens lock
}

// link is one login to the token, with the keys that were used in it, by name.
type link struct {
	*crypto11.Context
	keys sync.Map
}

func openPKCS11(h HSM) (token, error) {
	if _, err := os.Stat(h.Module); err != nil {
		return nil, (&keyholder.Error{Code: keyholder.Invalid, Detail: "there is no PKCS #11 module " + h.Module, Err: err}).
			WithHint("set keys.pkcs11.module to the library of the HSM's maker")
	}
	t := &pkcs11Token{hsm: h}
	return t, t.use(func(*link) error { return nil })
}

// use does something with a link. If the HSM fails the link is given up; an
// error of ours says nothing about the link.
func (t *pkcs11Token) use(do func(*link) error) error {
	l, err := t.lockedLink()
	if err != nil {
		return err
	}
	err = do(l)
	t.mu.RUnlock()
	if err == nil || keyholder.CodeOf(err) != "" {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.link == l {
		_ = l.Close() // does not wait: nobody uses it while we have the lock
		t.link = nil
	}
	return t.unavailable(err)
}

// lockedLink returns a link and holds the lock for reading.
func (t *pkcs11Token) lockedLink() (*link, error) {
	for {
		t.mu.RLock()
		if t.link != nil {
			return t.link, nil
		}
		t.mu.RUnlock()
		if err := t.connect(); err != nil {
			return nil, err
		}
	}
}

// connect opens the module and logs in to the token.
func (t *pkcs11Token) connect() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.link != nil {
		return nil
	}
	if time.Since(t.tried) < retryAfter {
		return t.unavailable(errGone)
	}
	pin, err := keyfile.ReadPrivate(t.hsm.PINFile)
	if errors.Is(err, fs.ErrNotExist) {
		return keyholder.Errorf(keyholder.Invalid, "there is no file %s with the PIN of the HSM", t.hsm.PINFile).
			WithHint("write the PIN into it, with mode 0600 (keys.pkcs11.pin_file)")
	} else if err != nil {
		return err
	}
	pin = bytes.TrimSpace(pin)
	if t.refused != nil && bytes.Equal(pin, t.refused) {
		return t.errPIN(nil)
	}
	c, err := crypto11.Configure(&crypto11.Config{Path: t.hsm.Module, TokenLabel: t.hsm.Token, Pin: string(pin), MaxSessions: maxSessions, PoolWaitTimeout: sessionWait})
	if err == nil {
		t.link, t.refused, t.tried = &link{Context: c}, nil, time.Time{}
		return nil
	}
	t.tried = time.Now()
	if code := pkcs11.Error(0); errors.As(err, &code) && (code == pkcs11.CKR_PIN_INCORRECT || code == pkcs11.CKR_PIN_LOCKED || code == pkcs11.CKR_PIN_INVALID || code == pkcs11.CKR_PIN_LEN_RANGE) {
		t.refused = pin
		return t.errPIN(err)
	}
	return t.unavailable(err)
}

func (t *pkcs11Token) errPIN(cause error) error {
	return (&keyholder.Error{Code: keyholder.Unavailable, Detail: "the HSM does not take the PIN of its token " + t.hsm.Token, Err: cause}).
		WithHint("correct %s (keys.pkcs11.pin_file); the same PIN is not tried twice, because tokens lock", t.hsm.PINFile)
}

func (t *pkcs11Token) unavailable(cause error) error {
	return (&keyholder.Error{Code: keyholder.Unavailable, Detail: "the token " + t.hsm.Token + " of the HSM cannot be used: " + cause.Error(), Err: cause}).
		WithHint("look whether %s reaches it (keys.pkcs11); nothing is signed until it does", t.hsm.Module)
}

// find returns the pair of keys of a name, nil if there is none.
func (l *link) find(name string) (crypto11.Signer, error) {
	if pair, ok := l.keys.Load(name); ok {
		return pair.(crypto11.Signer), nil
	}
	pairs, err := l.FindKeyPairs([]byte(name), []byte(name))
	if err != nil || len(pairs) == 0 {
		return nil, err
	}
	l.keys.Store(name, pairs[0])
	return pairs[0], nil
}

func (t *pkcs11Token) generate(name string) (public *ecdsa.PublicKey, err error) {
	err = t.use(func(l *link) error {
		// Sensitive, and not extractable, by the library's template.
		pair, err := l.GenerateECDSAKeyPairWithLabel([]byte(name), []byte(name), elliptic.P256())
		if err != nil {
			return err
		}
		public, _ = pair.Public().(*ecdsa.PublicKey)
		return nil
	})
	return public, err
}

func (t *pkcs11Token) sign(name string, digest []byte) (signature []byte, err error) {
	err = t.use(func(l *link) error {
		pair, err := l.find(name)
		if err != nil {
			return err
		}
		if pair == nil {
			return keyholder.Errorf(keyholder.Unavailable, "the token %s of the HSM has no key %s", t.hsm.Token, name).
				WithHint("is the data folder an old copy? Retired keys are destroyed in the HSM; restore the newest copy")
		}
		signature, err = pair.Sign(nil, digest, nil)
		return err
	})
	return signature, err
}

func (t *pkcs11Token) destroy(name string) error {
	return t.use(func(l *link) error {
		pair, err := l.find(name)
		if err != nil || pair == nil {
			return err
		}
		l.keys.Delete(name)
		return pair.Delete()
	})
}

func (t *pkcs11Token) close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.link == nil {
		return nil
	}
	err := t.link.Close()
	t.link = nil
	return err
}
