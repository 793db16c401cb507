package daemon

import (
	"context"
	"crypto"
	"slices"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/keyfile"
	"github.com/fds-keyholder/keyholder/internal/keyring"
	"github.com/fds-keyholder/keyholder/internal/ledger"
	"github.com/fds-keyholder/keyholder/internal/pki"
	"github.com/fds-keyholder/keyholder/internal/webhook"
)

// Keys says how the signing keys are kept.
type Keys struct {
	RotateEvery time.Duration `yaml:"rotate_every"` // 0: only on command
	SealFile    string        `yaml:"seal_file"`    // the key that seals them; empty: they are plain
	PKCS11      keyring.HSM   `yaml:"pkcs11"`       // where the private keys are; zero: in files
}

// hsm returns the HSM with the paths made whole.
func (k Keys) hsm(dir string) keyring.HSM {
	h := k.PKCS11
	if h.PINFile != "" {
		h.PINFile = inFolder(dir, h.PINFile)
	}
	return h
}

// seal opens the sealing key. It is nil if there is none.
func (k Keys) seal(dir string) (*keyfile.Seal, error) {
	if k.SealFile == "" {
		return nil, nil
	}
	return keyfile.OpenSeal(inFolder(dir, k.SealFile), dir)
}

// SealFolder seals the private keys of a data folder, and our secrets at the
// receivers of webhooks, with the key that its
// configuration names, which is made if it is not there. No server may run.
// An error leaves every file as it was; a crash of the machine is made good by
// sealing again. Errors: Conflict, Invalid.
func SealFolder(dir string) error {
	config, err := LoadConfig(dir)
	if err != nil {
		return err
	}
	if config.Keys.SealFile == "" {
		return keyholder.Errorf(keyholder.Invalid, "%s names no sealing key", ConfigName).
			WithHint("set keys.seal_file to a file outside the data folder; it is made if it is not there")
	}
	held, err := lock(dir)
	if err != nil {
		return err
	}
	defer held.Close()
	if err := keyfile.MakeSeal(inFolder(dir, config.Keys.SealFile), dir); err != nil {
		return err
	}
	seal, err := config.Keys.seal(dir)
	if err != nil {
		return err
	}
	files, err := keyring.PrivateFiles(dir)
	if err != nil {
		return err
	}
	secrets, err := webhook.PrivateFiles(dir)
	if err != nil {
		return err
	}
	return keyfile.SealAll(seal, slices.Concat(files, pki.PrivateFiles(dir), secrets))
}

// minRotation keeps the history of keys small.
const minRotation = 24 * time.Hour

func (k Keys) check() error {
	if k.RotateEvery != 0 && k.RotateEvery < minRotation {
		return keyholder.Errorf(keyholder.Invalid, "keys.rotate_every is shorter than %s", minRotation)
	}
	return k.PKCS11.Check()
}

// tendEvery is how often the keys are looked after.
const tendEvery = time.Minute

// tendKeys rotates and retires keys in time until ctx is done. What fails is
// logged and tried again: the keys in use stay good.
func (d *Daemon) tendKeys(ctx context.Context, k Keys) error {
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	for {
		if err := d.tendOnce(ctx, k); err != nil && ctx.Err() == nil {
			d.log.Error("the signing keys could not be looked after", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (d *Daemon) tendOnce(ctx context.Context, k Keys) error {
	changes, err := d.keys.Tend(k.RotateEvery)
	for _, c := range changes {
		var detail map[string]string
		if !c.From.IsZero() {
			detail = map[string]string{"from": c.From.Format(time.RFC3339)}
		}
		if err := d.ledger.Record(ctx, c.Kind, ledger.System, c.KID, detail); err != nil {
			return err
		}
	}
	return err
}

// retireEnded takes keys out of the ring that the ledger says have ended: a
// retirement that a crash interrupted, or a folder that was restored or copied
// before it.
func (d *Daemon) retireEnded() error {
	for _, k := range d.keys.JWKS().Keys {
		if !d.ledger.TokenEnded(keyholder.Token{Key: k.KeyID}) {
			continue
		}
		if _, err := d.keys.Retire(k.KeyID); err != nil {
			return err
		}
	}
	return nil
}

// publicKey gives the guard our own keys without a round trip.
func (d *Daemon) publicKey(_ context.Context, kid string) (crypto.PublicKey, error) {
	set := d.keys.JWKS()
	keys := set.Key(kid)
	if len(keys) != 1 {
		return nil, keyholder.Errorf(keyholder.NotFound, "no such key")
	}
	return keys[0].Key, nil
}
