//go:build !cgo

package keyring

import "github.com/fds-keyholder/keyholder"

// openPKCS11 refuses: the library of an HSM is C.
func openPKCS11(HSM) (token, error) {
	return nil, keyholder.Errorf(keyholder.Invalid, "this keyholder is built without cgo and cannot use an HSM (keys.pkcs11)").
		WithHint("build it with `make build-hsm`")
}
