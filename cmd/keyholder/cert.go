package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/console"
	"github.com/fds-keyholder/keyholder/internal/pki"
)

func runCertKey(_ context.Context, env *environment, args []string) error {
	f := newFlags(env, "cert key", `
Makes a private key (P-256) in a new file of mode 0600. It is for whoever will
hold the certificate, is made on their machine, and is sent to nobody.

example:
  $ keyholder cert key -out consumer.key`)
	out := f.need("out", "`FILE`: new file for the key")
	if _, err := f.parse(args); err != nil {
		return err
	}
	file, err := newSecretFile(*out)
	if err != nil {
		return err
	}
	key, err := pki.NewKey()
	if err != nil {
		file.drop()
		return err
	}
	return file.keep(string(key))
}

func runCertRequest(_ context.Context, env *environment, args []string) error {
	f := newFlags(env, "cert request", `
Makes a certificate signing request for a private key and prints it, or writes
it to the file of -out. The request holds no secret: it is what goes to the
administrator. What the certificate will say is decided by keyholder cert issue
and not by the request.

example:
  $ keyholder cert key -out consumer.key
  $ keyholder cert request -key consumer.key -out consumer.csr`)
	keyFile := f.need("key", "`FILE`: private key, made with keyholder cert key")
	name := f.value("name", "`NAME`: name in the request, for people")
	out := f.value("out", "`FILE`: file for the request (default standard output)")
	if _, err := f.parse(args); err != nil {
		return err
	}
	key, err := readFile(env, *keyFile)
	if err != nil {
		return err
	}
	if *name == "" {
		*name = "keyholder client"
	}
	request, err := pki.NewRequest(key, *name)
	if err != nil {
		return err
	}
	return printOrWrite(env, *out, request)
}

// printOrWrite writes something public to a file, or prints it.
func printOrWrite(env *environment, path string, content []byte) error {
	if path != "" {
		return writePublic(path, content)
	}
	_, err := env.stdout.Write(content)
	return err
}

func runCertIssue(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, "cert issue", `
Issues a client certificate for the key of a certificate signing request and
prints its serial. Use and ID decide what the certificate says and is good for;
of the request only the key is used. With -out the certificate, the issuing one
after it, is written to a file; a file that is there is replaced, for renewal.
Without it, keyholder cert show SERIAL prints the certificate.

A certificate for a subscription lets the app connect to the broker, one for a
provider lets it publish and get tokens, one for an app lets it get tokens and
call the Web API.

example:
  $ keyholder cert issue -for subscription -id 2b4d4f6a-8c0e-4d1b-9f5a-7c027a3c5e1f \
      -csr consumer.csr -out consumer.pem
  5d0c9b1f8e7a46c2b3d4e5f60718293a`).server().reading()
	use := f.need("for", "`USE`: subscription, provider or app")
	id := f.need("id", "`ID`: the subscription, provider or app")
	csr := f.need("csr", "`FILE`: certificate signing request in PEM; - is standard input")
	out := f.value("out", "`FILE`: file for the certificate")
	days := f.Int("days", 0, "`N`: days of validity, at most 397; a subscription's end is the limit (default 90)")
	if _, err := f.parse(args); err != nil {
		return err
	}
	request, err := readFile(env, *csr)
	if err != nil {
		return err
	}
	c, err := f.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	cert, err := c.IssueCertificate(ctx, console.NewCertificate{Use: keyholder.CertificateUse(*use), Subject: *id, Request: string(request), Days: *days})
	if err != nil {
		return err
	}
	if *out != "" {
		if err := writePublic(*out, []byte(cert.PEM)); err != nil {
			return fmt.Errorf("%w; the certificate was issued, `keyholder cert show %s -json` has it", err, cert.Serial)
		}
	}
	fmt.Fprintf(env.stderr, "valid until %s\n", stamp(cert.NotAfter))
	return f.added(cert.Serial, cert)
}

func runCertAdd(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, "cert add", `
Records a further certificate of an app with -auth self_signed_tls_client_auth,
made by the app itself, and prints the thumbprint that names it. The one before
stays valid until it ends or is revoked, so that the app can change over.

example:
  $ keyholder cert add -id fd1c3b5a-7e9f-4a2c-8b4d-6f8e0a1c3e24 -cert new.pem`).server().reading()
	id := f.need("id", "`ID`: the app")
	file := f.need("cert", "`FILE`: certificate in PEM; - is standard input")
	if _, err := f.parse(args); err != nil {
		return err
	}
	text, err := readSelfSigned(env, *file)
	if err != nil {
		return err
	}
	return ask(ctx, f, (*console.Client).AddAppCertificate, console.NewAppCertificate{App: *id, Certificate: text},
		func(cert console.CertificateText) string { return cert.Serial })
}

func runCertRevoke(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, "cert revoke", `
Revokes one client certificate and prints the receipt; the same as keyholder cut
cert SERIAL. The subscription stays: another certificate for it goes on working.

example:
  $ keyholder cert revoke 5d0c9b1f8e7a46c2b3d4e5f60718293a -reason "key lost"`, "SERIAL").server().reading()
	reason := f.need("reason", "`TEXT`: why; it stands in the receipt and the audit trail")
	found, err := f.parse(args)
	if err != nil {
		return err
	}
	return f.cut(ctx, string(keyholder.CutCertificate), found[0], *reason)
}

func runCertCA(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, "cert ca", `
Prints the root certificate, which every party is given to trust: it verifies
the servers and all client certificates.

example:
  $ keyholder cert ca -out ca.pem`).server()
	out := f.value("out", "`FILE`: file for the certificate (default standard output)")
	c, _, err := f.connect(args)
	if err != nil {
		return err
	}
	defer c.Close()
	a, err := c.Authority(ctx)
	if err != nil {
		return err
	}
	return printOrWrite(env, *out, []byte(a.Root))
}

func certificates() noun[console.CertificateText] {
	type row = console.CertificateText
	return noun[row]{
		name: "cert", plural: "client certificates", key: "SERIAL",
		list: func(c *console.Client, ctx context.Context) ([]row, error) {
			all, err := c.Certificates(ctx)
			rows := make([]row, len(all))
			for i, k := range all {
				rows[i].Certificate = k
			}
			return rows, err
		},
		show: (*console.Client).Certificate,
		columns: []column[row]{
			{title: "serial", text: func(k row, _ time.Time) string { return k.Serial }},
			{title: "for", text: func(k row, _ time.Time) string { return string(k.Use) }},
			{title: "id", text: func(k row, _ time.Time) string { return k.Subject }},
			{title: "name", text: func(k row, _ time.Time) string { return k.SubjectName }},
			{title: "state", text: func(k row, now time.Time) string { return stateOf(k.NotBefore, k.NotAfter, k.Revoked, "revoked", now) }},
			{title: "origin", text: func(k row, _ time.Time) string { return cmp.Or(string(k.Origin), "issued here") }, wide: true},
			{title: "issued", text: func(k row, _ time.Time) string { return stamp(k.Issued) }, wide: true},
		},
		more: func(w io.Writer, k row, _ time.Time) { fmt.Fprintf(w, "\n%s", k.PEM) },
		help: "Those that ended or were revoked are among them.",
		example: `  SERIAL                            FOR           ID                                    NAME              STATE
  5d0c9b1f8e7a46c2b3d4e5f60718293a  subscription  2b4d4f6a-8c0e-4d1b-9f5a-7c027a3c5e1f  st-anna, Cleaner  in force until 2027-02-22 09:30:00Z`,
	}
}
