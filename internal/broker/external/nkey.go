package external

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"

	"github.com/nats-io/nkeys"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/keyfile"
)

// newNATSKeys makes the keys of Keyholder for a NATS broker, as its secret_file
// holds them: one that signs answers, and one that Keyholder signs in with.
func newNATSKeys() ([]byte, error) {
	var out bytes.Buffer
	for _, kind := range []nkeys.PrefixByte{nkeys.PrefixByteAccount, nkeys.PrefixByteUser} {
		pair, err := nkeys.CreatePair(kind)
		if err != nil {
			return nil, fmt.Errorf("make a key: %w", err)
		}
		seed, err := pair.Seed()
		if err != nil {
			return nil, fmt.Errorf("write a key: %w", err)
		}
		fmt.Fprintf(&out, "%s\n", seed)
	}
	return out.Bytes(), nil
}

// parseNATSKeys reads the keys. Errors: Invalid.
func parseNATSKeys(text []byte) (issuer, user nkeys.KeyPair, err error) {
	if lines := bytes.Fields(text); len(lines) == 2 && bytes.HasPrefix(lines[0], []byte("SA")) && bytes.HasPrefix(lines[1], []byte("SU")) {
		if issuer, err = nkeys.FromSeed(lines[0]); err == nil {
			user, err = nkeys.FromSeed(lines[1])
		}
		if err == nil {
			return issuer, user, nil
		}
	}
	return nil, nil, keyholder.Errorf(keyholder.Invalid, "the file of secret_file does not hold the keys for NATS").
		WithHint("keyholder broker config nats -keys FILE makes it")
}

// OpenNATSKeys reads a file of keys of Keyholder for a NATS broker, or makes it
// (mode 0600) if there is none.
// Errors: Invalid, Denied for a file that others may read.
func OpenNATSKeys(path string) ([]byte, error) {
	keys, err := keyfile.ReadPrivate(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return keys, err
	}
	if keys, err = newNATSKeys(); err != nil {
		return nil, err
	}
	return keys, keyfile.Add(path, keys)
}
