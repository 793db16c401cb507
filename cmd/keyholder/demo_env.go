package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/fds-keyholder/keyholder/internal/console"
)

// serveEnv loads the facility, writes the variables and waits: nothing is
// replayed and nothing is cut, so that other tools find everything in place.
func (d *demo) serveEnv(ctx context.Context, file string) error {
	for _, chapter := range []func(context.Context) error{d.start, d.onboard, d.signIn, d.ingest} {
		if err := chapter(ctx); err != nil {
			return fmt.Errorf("the demo broke off: %w", err)
		}
	}
	text, err := d.variables(ctx)
	if err != nil {
		return err
	}
	// Written beside and renamed: whoever waits for the file never reads half of it.
	temporary := file + ".new"
	if err := os.WriteFile(temporary, []byte(text), 0o600); err != nil {
		return fmt.Errorf("write the variables: %w", err)
	}
	if err := os.Rename(temporary, file); err != nil {
		return fmt.Errorf("write the variables: %w", err)
	}
	d.story.say("")
	d.story.say("variables for other tools: . %s", file)
	d.stay(ctx)
	return nil
}

// variables is the demo in shell syntax.
func (d *demo) variables(ctx context.Context) (string, error) {
	a, b := d.subs["A"], d.subs["B"]
	_, revokedCert, revokedKey, err := d.revokedCertificate(ctx, a.id)
	if err != nil {
		return "", err
	}
	server, err := d.fabric.admin.AddResourceServer(ctx, console.NewResourceServer{Name: "Foreign tools"})
	if err != nil {
		return "", err
	}
	binary, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the own program: %w", err)
	}
	var text strings.Builder
	for _, v := range [][2]string{
		{"ISSUER", d.fabric.daemon.Issuer}, {"API", d.fabric.daemon.API}, {"MQTT", d.fabric.daemon.MQTT}, {"CA", d.fabric.caFile},
		{"PROVIDER_ID", string(d.provider.ID)}, {"PROVIDER_CERT", d.provider.certFile}, {"PROVIDER_KEY", d.provider.keyFile},
		{"PROVIDER2_ID", string(d.provider2.ID)}, {"PROVIDER2_CERT", d.provider2.certFile}, {"PROVIDER2_KEY", d.provider2.keyFile},
		{"SUB_A", string(a.id)}, {"SUB_B", string(b.id)},
		{"A_CERT", a.certFile}, {"A_KEY", a.keyFile}, {"B_CERT", b.certFile}, {"B_KEY", b.keyFile},
		{"REVOKED_A_CERT", revokedCert}, {"REVOKED_A_KEY", revokedKey},
		{"APP1_ID", string(d.apps[0].ID)}, {"APP1_SECRET", d.apps[0].secret},
		{"APP2_ID", string(d.apps[1].ID)}, {"APP2_CERT", d.apps[1].certFile}, {"APP2_KEY", d.apps[1].keyFile},
		{"REDIRECT_URI", redirectURI},
		{"OWNER_A_USER", d.owners[northgate].login}, {"OWNER_A_PASSWORD", d.owners[northgate].password},
		{"OWNER_B_USER", d.owners[stAnna].login}, {"OWNER_B_PASSWORD", d.owners[stAnna].password},
		{"RS_ID", string(server.ResourceServer.ID)}, {"RS_SECRET", server.Secret},
		{"CUT_A", fmt.Sprintf("%s cut -data %s subscription %s -reason demo", filepath.Clean(binary), d.fabric.dir, a.id)},
		{"PID", fmt.Sprint(os.Getpid())},
	} {
		fmt.Fprintf(&text, "KEYHOLDER_%s=%s\n", v[0], shellQuote(v[1]))
	}
	return text.String(), nil
}

// shellQuote makes one word of any text.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
