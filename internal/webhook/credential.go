package webhook

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/fds-keyholder/keyholder/internal/keyfile"
)

// credential is what a webhook's folder holds.
type credential struct {
	secret      string
	certificate *tls.Certificate
	roots       *x509.CertPool // nil: those of the system

	raw []byte // all files together, to see whether one has changed
}

// errCredential is in the chain of every failure to read a webhook's files.
var errCredential = errors.New("the webhook's files")

// readCredential reads the folder of a webhook, so that a file put there or
// replaced counts without a restart. The error names the file, never what is
// in it.
func readCredential(dir string, seal *keyfile.Seal, roots *x509.CertPool) (credential, error) {
	var c credential
	files := map[string][]byte{}
	for _, name := range []string{"secret", "cert.pem", "key.pem", "ca.pem"} {
		path := filepath.Join(dir, name)
		read := keyfile.Read
		if slices.Contains(privateNames, name) {
			read = func(path string) ([]byte, error) { return keyfile.ReadSealed(path, seal) }
		}
		content, err := read(path)
		if errors.Is(err, fs.ErrNotExist) {
			content, err = nil, nil
		}
		if err != nil {
			return credential{}, fmt.Errorf("%w: %s: %w", errCredential, name, err)
		}
		files[name] = content
		c.raw = append(append(c.raw, content...), 0)
	}
	c.roots = roots
	if ca := files["ca.pem"]; ca != nil {
		var err error
		if c.roots, err = withRoots(roots, ca); err != nil {
			return credential{}, err
		}
	}
	switch {
	case files["cert.pem"] != nil && files["key.pem"] != nil:
		pair, err := tls.X509KeyPair(files["cert.pem"], files["key.pem"])
		if err != nil {
			return credential{}, fmt.Errorf("%w: cert.pem and key.pem are not a certificate and its key", errCredential)
		}
		c.certificate = &pair
	case files["cert.pem"] != nil || files["key.pem"] != nil:
		return credential{}, fmt.Errorf("%w: cert.pem and key.pem belong together", errCredential)
	default:
		c.secret = strings.TrimRight(string(files["secret"]), "\r\n")
		if c.secret == "" {
			return credential{}, fmt.Errorf("%w: there is neither a secret nor cert.pem with key.pem", errCredential)
		}
	}
	return c, nil
}

func withRoots(roots *x509.CertPool, ca []byte) (*x509.CertPool, error) {
	if roots == nil {
		var err error
		if roots, err = x509.SystemCertPool(); err != nil {
			roots = x509.NewCertPool()
		}
	}
	roots = roots.Clone()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%w: ca.pem holds no certificate", errCredential)
	}
	return roots, nil
}

// privateNames are the files of a webhook that hold secrets.
var privateNames = []string{"secret", "key.pem"}

// PrivateFiles returns the files below a data folder that hold our secrets at
// the receivers of webhooks.
func PrivateFiles(data string) ([]string, error) {
	var files []string
	for _, name := range privateNames {
		found, err := filepath.Glob(filepath.Join(Dir(data, "*"), name))
		if err != nil {
			return nil, fmt.Errorf("list the files of webhooks: %w", err)
		}
		files = append(files, found...)
	}
	return files, nil
}
