// Command keyholder runs the FDS security fabric, onboards parties, and checks
// any deployment. `keyholder help` explains it.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

const usage = `keyholder is the security fabric of the FDS standard.

usage: keyholder COMMAND [flags]
       keyholder help COMMAND    (help cert, help cert issue, help cut, ...)

%s
Every command that talks to a server takes -data DIR; without it
$KEYHOLDER_DATA or ./keyholder-data is used. Commands that read take -json.
Results go to standard output, everything else to standard error.
Exit status: 0 fine, 1 the answer is no, 2 wrong use, 3 unavailable.

example: a provider, an owner and an app, from nothing to a subscription

  $ export KEYHOLDER_DATA=D
  $ keyholder init
  $ keyholder serve &
  $ P=$(keyholder provider add -name "Soap Inc")
  $ keyholder owner add -key northgate -name "Northgate Facilities"
  $ APP=$(keyholder app add -name "Cleaner" -auth tls_client_auth -grant client_credentials)
  $ A=$(keyholder agreement add -provider $P -owner northgate -purpose "refill planning")
  $ S=$(keyholder subscription add -agreement $A -app $APP)
  $ keyholder why -subscription $S -action read
  $ keyholder cut subscription $S -reason "contract ended"

docs/operate.md tells the same story step by step.
`

// environment is what a command sees of the world.
type environment struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	now            func() time.Time
}

// command is a row of the table of commands.
type command struct {
	name string // noun and verb, of one word or two, or one word
	does string // in one line
	run  func(context.Context, *environment, []string) error
}

// commands is the whole command line.
func commands() []command {
	return []command{
		{"demo", "the whole fabric on this machine, with attacks and a cut", runDemo},
		{"init", "create a data folder", runInit},
		{"serve", "serve a data folder", runServe},
		{"check", "check any FDS deployment from outside", runCheck},

		{"provider add", "register an information provider", runProviderAdd},
		{"provider list", "list providers", providers().runList},
		{"provider show", "show a provider", providers().runShow},
		{"provider secret", "draw a further secret of a provider", secretCommand("provider")},
		{"owner add", "register a resource owner", runOwnerAdd},
		{"owner list", "list owners", owners().runList},
		{"owner show", "show an owner", owners().runShow},
		{"owner factor", "settle whether an owner's users need a second factor", runOwnerFactor},
		{"owner idp set", "register the OpenID provider at which an owner's users sign in", runOwnerIDPSet},
		{"owner idp show", "show the OpenID provider of an owner", runOwnerIDPShow},
		{"owner idp remove", "remove the OpenID provider of an owner", runOwnerIDPRemove},
		{"user add", "register a user of an owner, who signs in", runUserAdd},
		{"user list", "list users", users().runList},
		{"user show", "show a user", users().runShow},
		{"user bind", "settle who a user is at the owner's OpenID provider", runUserBind},
		{"user unlock", "end the lock-out of a user after failed sign-ins", runUserUnlock},
		{"user recover", "draw a code with which a user sets a new password", runUserRecover},
		{"user reset", "give a user a new password, and take away all second factors", runUserReset},
		{"user disable", "keep a user from signing in", userStateCommand("disable", true)},
		{"user enable", "let a disabled user sign in again", userStateCommand("enable", false)},
		{"app add", "register a client application", runAppAdd},
		{"app list", "list apps", apps().runList},
		{"app show", "show an app", apps().runShow},
		{"app keys", "replace the public keys of an app", runAppKeys},
		{"app crl", "take the revocation list of an app's own authority", runAppCRL},
		{"app secret", "draw a further secret of an app", secretCommand("app")},
		{"resourceserver add", "register who may introspect tokens", runResourceServerAdd},
		{"resourceserver list", "list resource servers", resourceServers().runList},
		{"resourceserver show", "show a resource server", resourceServers().runShow},
		{"resourceserver secret", "draw a further secret of a resource server", secretCommand("resourceserver")},

		{"agreement add", "record an agreement of a provider and an owner", runAgreementAdd},
		{"agreement list", "list agreements", agreements().runList},
		{"agreement show", "show an agreement", agreements().runShow},
		{"consent list", "list consents", consents().runList},
		{"consent show", "show a consent", consents().runShow},
		{"subscription add", "record the consent of a written agreement", runSubscriptionAdd},
		{"subscription list", "list subscriptions", subscriptions().runList},
		{"subscription show", "show a subscription and what hangs on it", subscriptions().runShow},

		{"cert key", "make a private key, here", runCertKey},
		{"cert request", "make a certificate signing request, here", runCertRequest},
		{"cert issue", "issue a client certificate", runCertIssue},
		{"cert add", "record a certificate that an app made itself", runCertAdd},
		{"cert list", "list client certificates", certificates().runList},
		{"cert show", "show a client certificate", certificates().runShow},
		{"cert revoke", "revoke a client certificate", runCertRevoke},
		{"cert ca", "print the root certificate", runCertCA},
		{"webhook add", "register where an app wants its pushes", runWebhookAdd},
		{"webhook list", "list webhooks", webhooks().runList},
		{"webhook show", "show a webhook", webhooks().runShow},

		{"broker config", "generate the configuration of an external broker", runBrokerConfig},

		{"cut", "end a right everywhere; prints the receipt", runCut},
		{"receipt list", "list the receipts of cuts", receipts().runList},
		{"receipt show", "show a receipt", runReceiptShow},
		{"receipt verify", "verify a signed receipt, without a server", runReceiptVerify},
		{"key list", "print the public keys of tokens and receipts", runKeyList},
		{"key rotate", "publish a new signing key that takes over in fifteen minutes", runKeyRotate},
		{"key retire", "take a key out of use at once, with all tokens it signed", runKeyRetire},
		{"key seal", "seal the private keys of a data folder", runKeySeal},
		{"audit list", "list the audit trail", runAuditList},
		{"audit verify", "follow the hash chain of the audit trail", runAuditVerify},
		{"why", "explain what would be decided, and why", runWhy},
		{"expiring", "list what ends soon", runExpiring},
		{"version", "print the version", runVersion},
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	env := &environment{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv, now: time.Now}
	code := run(ctx, env, os.Args[1:])
	stop()
	os.Exit(code)
}

// run executes one command line and returns the exit code.
func run(ctx context.Context, env *environment, args []string) int {
	return report(env, dispatch(ctx, env, args))
}

func dispatch(ctx context.Context, env *environment, args []string) error {
	if len(args) == 0 {
		return &usageError{"no command was given", "`keyholder help` lists the commands"}
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		return help(ctx, env, args[1:])
	}
	c, rest, err := find(args)
	if err != nil {
		return err
	}
	return c.run(ctx, env, rest)
}

// find returns the command that args begin with, and the rest of args.
func find(args []string) (command, []string, error) {
	var verbs, names []string
	for _, c := range commands() {
		noun, verb, both := strings.Cut(c.name, " ")
		names = append(names, noun)
		if noun != args[0] {
			continue
		}
		if !both {
			return c, args[1:], nil
		}
		if words := strings.Fields(verb); len(args) > len(words) && slices.Equal(words, args[1:1+len(words)]) {
			return c, args[1+len(words):], nil
		}
		verbs = append(verbs, verb)
	}
	switch {
	case len(verbs) == 0:
		return command{}, nil, &usageError{fmt.Sprintf("there is no command %.40q", args[0]), guess(args[0], slices.Compact(names), "`keyholder help` lists the commands")}
	case len(args) == 1:
		return command{}, nil, &usageError{fmt.Sprintf("%s what?", args[0]), fmt.Sprintf("keyholder %s %s", args[0], strings.Join(verbs, "|"))}
	case args[1] == "-h" || args[1] == "-help" || args[1] == "--help":
		return command{args[0], "", func(_ context.Context, env *environment, _ []string) error { return nounHelp(env, args[0]) }}, nil, nil
	}
	return command{}, nil, &usageError{fmt.Sprintf("%s has no verb %.40q", args[0], args[1]),
		guess(args[1], verbs, fmt.Sprintf("keyholder %s %s", args[0], strings.Join(verbs, "|")))}
}

// help explains everything, one noun or one command, on standard output.
func help(ctx context.Context, env *environment, args []string) error {
	if len(args) == 0 {
		_, err := fmt.Fprintf(env.stdout, usage, overview(""))
		return err
	}
	if len(args) == 1 && overview(args[0]) != "" && !single(args[0]) {
		return nounHelp(env, args[0])
	}
	c, rest, err := find(args)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return &usageError{fmt.Sprintf("there is no command %.80q", strings.Join(args, " ")), "`keyholder help` lists the commands"}
	}
	return c.run(ctx, env, []string{"-h"})
}

func nounHelp(env *environment, noun string) error {
	_, err := fmt.Fprintf(env.stdout, "%s\n`keyholder help %s VERB` explains one of them.\n", overview(noun), noun)
	return err
}

// single says whether a name is a command without verbs.
func single(name string) bool {
	return slices.ContainsFunc(commands(), func(c command) bool { return c.name == name })
}

// nounInWords says what a noun is.
func nounInWords(noun string) string {
	switch noun {
	case "provider":
		return "information providers"
	case "owner":
		return "resource owners"
	case "user":
		return "users of owners"
	case "app":
		return "client applications"
	case "resourceserver":
		return "who may introspect tokens"
	case "agreement":
		return "of a provider and an owner"
	case "consent":
		return "of an owner to an app"
	case "subscription":
		return "what a consent creates"
	case "cert":
		return "client certificates"
	case "webhook":
		return "where apps want pushes"
	case "broker":
		return "MQTT brokers of others"
	case "receipt":
		return "proofs of cuts"
	case "key":
		return "public keys"
	case "audit":
		return "the audit trail"
	}
	return noun
}

// overview lists the commands of a noun, one on a line, or all, one noun on a
// line.
func overview(noun string) string {
	var b strings.Builder
	last := ""
	for _, c := range commands() {
		first, verb, _ := strings.Cut(c.name, " ")
		switch {
		case noun == first:
			fmt.Fprintf(&b, "  %-22s %s\n", c.name, c.does)
		case noun != "":
		case verb == "":
			fmt.Fprintf(&b, "\n  %-14s %s", c.name, c.does)
		case first == last:
			b.WriteString(" " + verb)
		default:
			fmt.Fprintf(&b, "\n  %-14s %s: %s", first, nounInWords(first), verb)
		}
		last = first
	}
	if noun == "" {
		return strings.TrimPrefix(b.String(), "\n") + "\n"
	}
	return b.String()
}
