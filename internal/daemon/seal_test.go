package daemon_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/console"
	"github.com/fds-keyholder/keyholder/internal/daemon"
	"github.com/fds-keyholder/keyholder/internal/keyfile"
)

// privateContent returns the private key files of a data folder.
func privateContent(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, pattern := range []string{"keys/es256-*.key", "keys/factors", "pki/*.key"} {
		paths, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(paths) == 0 {
			t.Fatalf("%s: %v, %v", pattern, paths, err)
		}
		for _, path := range paths {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			found[path] = string(b)
		}
	}
	return found
}

// begin starts a folder on free ports.
func begin(t *testing.T, dir string, o daemon.Options) (*daemon.Daemon, error) {
	t.Helper()
	config, err := daemon.LoadConfig(dir)
	if err != nil {
		t.Fatal(err)
	}
	config.Listen.Auth, config.Listen.API, config.Listen.MQTT = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	o.Dir, o.Config = dir, config
	return daemon.Start(t.Context(), o)
}

// start starts and stops a folder.
func start(t *testing.T, dir string) error {
	t.Helper()
	d, err := begin(t, dir, daemon.Options{})
	if err != nil {
		return err
	}
	return d.Close(t.Context())
}

func checkSealed(t *testing.T, dir, key string) {
	t.Helper()
	for path, text := range privateContent(t, dir) {
		if !strings.HasPrefix(text, "-----BEGIN KEYHOLDER SEALED FILE-----") || strings.Contains(text, "PRIVATE KEY") {
			t.Errorf("%s is not sealed", path)
		}
	}
	if err := start(t, dir); err != nil {
		t.Errorf("with the sealing key: %v", err)
	}
	good, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, other := range map[string][]byte{"another": bytes.Repeat([]byte("k"), 32), "a short": good[:31]} {
		write(t, key, other)
		if err := start(t, dir); keyholder.CodeOf(err) != keyholder.Invalid {
			t.Errorf("with %s key: %v", name, err)
		}
	}
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	if err := start(t, dir); keyholder.CodeOf(err) != keyholder.Invalid {
		t.Errorf("without the sealing key: %v", err)
	}
	write(t, key, good)
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Ensure that a folder that is sealed from the beginning holds no private key
// that can be read, serves with its sealing key and with no other, and that
// neither a plain key nor a sealed one of another place is taken.
func TestInitSealed(t *testing.T) {
	dir, key := filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "seal.key")
	if err := daemon.InitWith(t.Context(), dir, daemon.InitOptions{SealFile: key}, time.Now()); err != nil {
		t.Fatal(err)
	}
	checkSealed(t, dir, key)
	plain := filepath.Join(t.TempDir(), "plain")
	if err := daemon.Init(plain, time.Now()); err != nil {
		t.Fatal(err)
	}
	issuing := filepath.Join(dir, "pki", "issuing.key")
	good := privateContent(t, dir)[issuing]
	for name, text := range map[string]string{
		"a plain key":               privateContent(t, plain)[filepath.Join(plain, "pki", "issuing.key")],
		"a sealed key of elsewhere": privateContent(t, dir)[filepath.Join(dir, "pki", "root.key")],
	} {
		write(t, issuing, []byte(text))
		if err := start(t, dir); keyholder.CodeOf(err) != keyholder.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	write(t, issuing, []byte(good))
	if err := start(t, dir); err != nil {
		t.Error(err)
	}
	inside := filepath.Join(t.TempDir(), "data")
	if err := daemon.InitWith(t.Context(), inside, daemon.InitOptions{SealFile: filepath.Join(inside, "seal.key")}, time.Now()); keyholder.CodeOf(err) != keyholder.Invalid {
		t.Errorf("a sealing key in the folder that it seals: %v", err)
	}
}

// Ensure that an existing folder is sealed as a whole or not at all, that
// sealing again changes nothing and finishes what a crash left, and that the
// key may not lie in the folder.
func TestSealFolder(t *testing.T) {
	dir, key := filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "seal.key")
	if err := daemon.Init(dir, time.Now()); err != nil {
		t.Fatal(err)
	}
	configure := func(file string) {
		t.Helper()
		write(t, filepath.Join(dir, daemon.ConfigName), bytes.Replace(daemon.DefaultConfig, []byte(`seal_file: ""`), []byte(`seal_file: "`+file+`"`), 1))
	}
	plain := privateContent(t, dir)
	refused := func(name string) {
		t.Helper()
		if err := daemon.SealFolder(dir); err == nil {
			t.Errorf("%s: sealed", name)
		}
		if d := cmp.Diff(plain, privateContent(t, dir)); d != "" {
			t.Errorf("%s: the files were changed", name)
		}
	}
	refused("no sealing key is configured")
	configure(filepath.Join(dir, "seal.key"))
	refused("the key would lie in the folder")
	if _, err := os.Stat(filepath.Join(dir, "seal.key")); err == nil {
		t.Error("a sealing key was made in the folder")
	}
	configure(key)
	if err := start(t, dir); keyholder.CodeOf(err) != keyholder.Invalid {
		t.Errorf("a plain folder with a configured seal: %v", err)
	}
	factors := filepath.Join(dir, "keys", "factors")
	if err := os.Chmod(factors, 0o644); err != nil { // the second last file that is sealed
		t.Fatal(err)
	}
	refused("a file is open to others")
	if err := os.Chmod(factors, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := daemon.SealFolder(dir); err != nil {
		t.Fatal(err)
	}
	checkSealed(t, dir, key)
	sealed := privateContent(t, dir)
	write(t, factors, []byte(plain[factors])) // as if the machine had stopped before this one
	if err := daemon.SealFolder(dir); err != nil {
		t.Fatal(err)
	}
	checkSealed(t, dir, key)
	delete(sealed, factors)
	again := privateContent(t, dir)
	delete(again, factors)
	if d := cmp.Diff(sealed, again); d != "" {
		t.Error("sealed files were sealed again")
	}
	if left, err := fs.Glob(os.DirFS(dir), "*/*.new"); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// Ensure that our secret at the receiver of a webhook is sealed as the private
// keys are, from the moment it is registered.
func TestWebhookSecretSealed(t *testing.T) {
	dir, ctx := filepath.Join(t.TempDir(), "data"), t.Context()
	if err := daemon.InitWith(ctx, dir, daemon.InitOptions{SealFile: filepath.Join(t.TempDir(), "seal.key")}, time.Now()); err != nil {
		t.Fatal(err)
	}
	r := run(t, dir, daemon.Options{})
	defer r.close()
	admin := r.admin
	provider, err1 := admin.AddProvider(ctx, console.NewProvider{Name: "Soap Inc"})
	_, err2 := admin.AddOwner(ctx, console.NewOwner{Key: "northgate", Name: "Northgate"})
	agreement, err3 := admin.AddAgreement(ctx, console.NewAgreement{Provider: string(provider.ID), Owner: "northgate", Purpose: "test"})
	app, err4 := admin.AddApp(ctx, console.NewApp{Name: "App", Authentication: keyholder.AuthCertificate, Grants: []keyholder.GrantType{keyholder.GrantClientCredentials}})
	sub, err5 := admin.AddSubscription(ctx, console.NewSubscription{Agreement: string(agreement.ID), App: string(app.App.ID)})
	hook, err6 := admin.AddWebhook(ctx, console.NewWebhook{Subscription: string(sub.ID), URL: "https://app.example/push", Issuer: "https://login.app.example", Client: "us", Secret: "s3cret"})
	if err := errors.Join(err1, err2, err3, err4, err5, err6); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join(dir, console.WebhookFolder, string(hook.ID), console.WebhookSecret))
	if err != nil || !keyfile.Sealed(content) {
		t.Errorf("%q, %v", content, err)
	}
}
