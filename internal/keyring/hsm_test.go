//go:build cgo

package keyring_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThalesGroup/crypto11"
	"github.com/miekg/pkcs11"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/keyring"
	"github.com/fds-keyholder/keyholder/internal/keyring/softhsm"
)

// openHSM makes a ring whose keys are in a token of its own.
func openHSM(t *testing.T) (*keyring.Ring, *softhsm.Token, keyring.Config) {
	t.Helper()
	token := softhsm.New(t)
	c := keyring.Config{Dir: t.TempDir(), HSM: token.HSM}
	if err := keyring.Create(c); err != nil {
		t.Fatal(err)
	}
	return reopen(t, c), token, c
}

func reopen(t *testing.T, c keyring.Config) *keyring.Ring {
	t.Helper()
	r, err := keyring.OpenRing(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// verifies fails the test unless the ring signs and its keys verify that.
func verifies(t *testing.T, r *keyring.Ring) {
	t.Helper()
	compact := sign(t, r, "x")
	if payload, err := keyring.Verify(r.JWKS(), compact, typ); err != nil || string(payload) != "x" {
		t.Errorf("got %q, %v", payload, err)
	}
}

// labels lists the private keys in a token, and fails the test if one can be
// taken out of it.
func labels(t *testing.T, token *softhsm.Token, pin string) (all []string) {
	t.Helper()
	c, err := crypto11.Configure(&crypto11.Config{Path: token.HSM.Module, TokenLabel: token.HSM.Token, Pin: pin})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	pairs, err := c.FindAllKeyPairs()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pairs {
		set, err := c.GetAttributes(p, []crypto11.AttributeType{crypto11.CkaLabel, crypto11.CkaSensitive, crypto11.CkaExtractable, crypto11.CkaNeverExtractable})
		if err != nil {
			t.Fatal(err)
		}
		if set[crypto11.CkaSensitive].Value[0] != 1 || set[crypto11.CkaExtractable].Value[0] != 0 || set[crypto11.CkaNeverExtractable].Value[0] != 1 {
			t.Errorf("%s can be taken out of the token", set[crypto11.CkaLabel].Value)
		}
		all = append(all, string(set[crypto11.CkaLabel].Value))
	}
	return all
}

// Ensure that keys in an HSM sign what verifies, also at once and after a
// restart, cannot be taken out of it, and that no file holds a private one.
func TestHSMSigns(t *testing.T) {
	r, token, c := openHSM(t)
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() { verifies(t, r) })
	}
	wg.Wait()
	compact := sign(t, r, "before")
	if found := labels(t, token, "271828"); len(found) != 1 {
		t.Errorf("the token holds %q", found)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	again := reopen(t, c)
	if _, err := keyring.Verify(again.JWKS(), compact, typ); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	verifies(t, again)
	files, err := filepath.Glob(filepath.Join(c.Dir, "keys", "es256-*"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	if text, err := os.ReadFile(files[0]); err != nil || strings.Contains(string(text), "PRIVATE") {
		t.Errorf("%s: %q, %v", files[0], text, err)
	}
}

// Ensure that a key is renewed in the HSM, and that the private part of a
// retired one is destroyed there, at once or when the HSM is back.
func TestHSMRotatesAndRetires(t *testing.T) {
	r, token, c := openHSM(t)
	first, _ := r.Signer()
	next, _, err := r.Rotate(0)
	if err != nil {
		t.Fatal(err)
	}
	if found := labels(t, token, "271828"); len(found) != 2 {
		t.Errorf("after a rotation the token holds %q", found)
	}
	verifies(t, r)
	if _, err := r.Retire(first); err != nil {
		t.Fatal(err)
	}
	if found := labels(t, token, "271828"); len(found) != 1 {
		t.Errorf("after a retirement the token holds %q", found)
	}
	if kid, _ := r.Signer(); kid != next {
		t.Errorf("%s signs, want %s", kid, next)
	}
	verifies(t, r)

	// The waiting key retires while the HSM is gone.
	waiting, _, err := r.Rotate(time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	token.Unplug()
	if _, err := r.Retire(waiting); keyholder.CodeOf(err) != keyholder.Unavailable {
		t.Errorf("without the HSM: %v", err)
	}
	if len(r.JWKS().Keys) != 1 {
		t.Error("the retired key is published")
	}
	token.Plug()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	r = reopen(t, c)
	if _, err := r.Tend(0); err != nil {
		t.Fatal(err)
	}
	if found := labels(t, token, "271828"); len(found) != 1 {
		t.Errorf("after the HSM was away the token holds %q", found)
	}
	verifies(t, r)
}

// Ensure that while an HSM fails nothing is signed and the error says so, and
// that signing goes on by itself when it is back.
func TestHSMFails(t *testing.T) {
	for _, tt := range []struct {
		name       string
		fail, mend func(*testing.T, *softhsm.Token)
		stays      bool // until it is mended
	}{
		{"token taken out", func(_ *testing.T, k *softhsm.Token) { k.Unplug() }, func(_ *testing.T, k *softhsm.Token) { k.Plug() }, true},
		{"sessions lost", func(t *testing.T, k *softhsm.Token) {
			m := pkcs11.New(k.HSM.Module) // the same library in this process
			defer m.Destroy()
			if err := m.Finalize(); err != nil {
				t.Fatal(err)
			}
		}, func(*testing.T, *softhsm.Token) {}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, token, _ := openHSM(t)
			verifies(t, r)
			tt.fail(t, token)
			for range map[bool]int{true: 10, false: 1}[tt.stays] {
				if _, err := r.Sign([]byte("x"), typ); keyholder.CodeOf(err) != keyholder.Unavailable {
					t.Fatalf("while it fails: %v", err)
				}
			}
			if _, _, err := r.Rotate(0); tt.stays && keyholder.CodeOf(err) != keyholder.Unavailable {
				t.Errorf("rotation while it fails: %v", err)
			}
			tt.mend(t, token)
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for deadline := time.Now().Add(5 * time.Second); ; <-tick.C {
				_, err := r.Sign([]byte("x"), typ)
				if err == nil {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("after it is back: %v", err)
				}
			}
			verifies(t, r)
		})
	}
}

// Ensure that a wrong PIN opens nothing and is not tried twice, so that the
// token does not lock.
func TestHSMRefusesPIN(t *testing.T) {
	r, token, c := openHSM(t)
	token.SetPIN("999999")
	token.Unplug()
	if _, err := r.Sign([]byte("x"), typ); keyholder.CodeOf(err) != keyholder.Unavailable {
		t.Fatalf("got %v", err)
	}
	token.Plug()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	tries := 0
	for range 50 { // longer than two pauses between attempts
		<-tick.C
		_, err := r.Sign([]byte("x"), typ)
		if err == nil {
			t.Fatal("signed with a wrong PIN")
		}
		if code := pkcs11.Error(0); errors.As(err, &code) && code == pkcs11.CKR_PIN_INCORRECT {
			tries++
		}
	}
	if tries != 1 {
		t.Errorf("the HSM was given the wrong PIN %d times", tries)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := keyring.OpenRing(c); keyholder.CodeOf(err) != keyholder.Unavailable || !strings.Contains(err.Error(), "does not take the PIN") {
		t.Errorf("start with a wrong PIN: %v", err)
	}
	token.CorrectPIN()
	verifies(t, reopen(t, c))
}

// Ensure that a ring does not open with an HSM that is not the one of its
// keys, or with files that are not what the configuration says.
func TestHSMRefusesStart(t *testing.T) {
	r, token, c := openHSM(t)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	change := func(f func(*keyring.HSM)) keyring.Config {
		changed := c
		f(&changed.HSM)
		return changed
	}
	_, plain := open(t)
	readable := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(readable, []byte("271828"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		config keyring.Config
		code   keyholder.Code
		detail string
	}{
		{"no such module", change(func(h *keyring.HSM) { h.Module = "/nowhere/libhsm.so" }), keyholder.Invalid, "no PKCS #11 module /nowhere/libhsm.so"},
		{"no module at all", change(func(h *keyring.HSM) { h.Module = readable }), keyholder.Unavailable, "failed to open module"},
		{"no such token", change(func(h *keyring.HSM) { h.Token = "another" }), keyholder.Unavailable, "could not find"},
		{"no PIN", change(func(h *keyring.HSM) { h.PINFile += ".lost" }), keyholder.Invalid, "with the PIN"},
		{"PIN readable by others", change(func(h *keyring.HSM) { h.PINFile = readable }), keyholder.Denied, ""},
		{"half a setting", change(func(h *keyring.HSM) { h.Token = "" }), keyholder.Invalid, "keys.pkcs11"},
		{"relative module", change(func(h *keyring.HSM) { h.Module = "libsofthsm2.so" }), keyholder.Invalid, "absolute"},
		{"HSM not configured", keyring.Config{Dir: c.Dir}, keyholder.Invalid, "is in an HSM"},
		{"keys in files", keyring.Config{Dir: plain, HSM: token.HSM}, keyholder.Invalid, "holds a private key"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := keyring.OpenRing(tt.config)
			if keyholder.CodeOf(err) != tt.code || !strings.Contains(err.Error(), tt.detail) || r != nil {
				t.Errorf("got %v, %v; want %s %q", r, err, tt.code, tt.detail)
			}
		})
	}
	verifies(t, reopen(t, c)) // the control
}
