package main

import (
	"fmt"
	"strings"
)

// Options of curl up to 8.16 by their long names, and a letter where they have
// one. A test compares them with the curl that is there. An option that is none
// of these could take a URL out of our sight, and is refused.
const (
	curlFlags = " anyauth append/a basic ca-native cert-status compressed compressed-ssh create-dirs crlf digest disable/q disable-eprt " +
		"disable-epsv disallow-username-in-url doh-cert-status doh-insecure fail/f fail-early fail-with-body false-start follow form-escape " +
		"ftp-create-dirs ftp-pasv ftp-pret ftp-skip-pasv-ip ftp-ssl-ccc ftp-ssl-control get/G globoff/g haproxy-protocol head/I http0.9 " +
		"http1.0/0 http1.1 http2 http2-prior-knowledge http3 http3-only ignore-content-length include/i insecure/k ipv4/4 ipv6/6 " +
		"junk-session-cookies/j list-only/l location/L location-trusted mail-rcpt-allowfails manual/M metalink mptcp negotiate netrc/n " +
		"netrc-optional next/: no-alpn no-buffer/N no-clobber no-keepalive no-npn no-progress-meter no-sessionid ntlm ntlm-wb out-null parallel/Z " +
		"parallel-immediate path-as-is post301 post302 post303 progress-bar/# progress-meter proxy-anyauth proxy-basic proxy-ca-native " +
		"proxy-digest proxy-http2 proxy-insecure proxy-negotiate proxy-ntlm proxy-ssl-allow-beast proxy-ssl-auto-client-cert proxy-tlsv1 " +
		"proxytunnel/p raw remote-header-name/J remote-name/O remote-name-all remote-time/R remove-on-error retry-all-errors " +
		"retry-connrefused sasl-ir show-error/S show-headers silent/s skip-existing socks5-basic socks5-gssapi socks5-gssapi-nec ssl ssl-allow-beast " +
		"ssl-auto-client-cert ssl-no-revoke ssl-reqd ssl-revoke-best-effort sslv2/2 sslv3/3 styled-output suppress-connect-headers " +
		"tcp-fastopen tcp-nodelay tftp-no-options tls-earlydata tlsv1/1 tlsv1.0 tlsv1.1 tlsv1.2 tlsv1.3 tr-encoding trace-ids trace-time " +
		"use-ascii/B verbose/v version/V xattr "
	curlValues = " abstract-unix-socket alt-svc aws-sigv4 cacert capath cert/E cert-type ciphers config/K connect-timeout connect-to " +
		"continue-at/C cookie/b cookie-jar/c create-file-mode crlfile curves data/d data-ascii data-binary data-raw data-urlencode " +
		"delegation dns-interface dns-ipv4-addr dns-ipv6-addr dns-servers doh-url dump-ca-embed dump-header/D ech egd-file engine etag-compare " +
		"etag-save expect100-timeout form/F form-string ftp-account ftp-alternative-to-user ftp-method ftp-port/P ftp-ssl-ccc-mode " +
		"happy-eyeballs-timeout-ms haproxy-clientip header/H help/h hostpubmd5 hostpubsha256 hsts interface ip-tos json keepalive-cnt keepalive-time " +
		"key key-type krb libcurl limit-rate local-port login-options mail-auth mail-from mail-rcpt max-filesize max-redirs max-time/m " +
		"netrc-file noproxy oauth2-bearer output/o output-dir parallel-max parallel-max-host pass pinnedpubkey preproxy proto proto-default " +
		"proto-redir proxy/x proxy-cacert proxy-capath proxy-cert proxy-cert-type proxy-ciphers proxy-crlfile proxy-header proxy-key " +
		"proxy-key-type proxy-pass proxy-pinnedpubkey proxy-service-name proxy-tls13-ciphers proxy-tlsauthtype proxy-tlspassword " +
		"proxy-tlsuser proxy-user/U proxy1.0 pubkey quote/Q random-file range/r rate referer/e request/X request-target resolve retry " +
		"retry-delay retry-max-time sasl-authzid service-name sigalgs socks4 socks4a socks5 socks5-gssapi-service socks5-hostname " +
		"speed-limit/Y speed-time/y stderr telnet-option/t tftp-blksize time-cond/z tls-max tls13-ciphers tlsauthtype tlspassword tlsuser " +
		"trace trace-ascii trace-config unix-socket upload-file/T upload-flags url url-query user/u user-agent/A vlan-priority write-out/w "
	// curlElsewhere are the options that let a request go to another machine than
	// the URL names. A certificate stands against that, and nothing else.
	curlElsewhere = " abstract-unix-socket connect-to dns-servers doh-url interface preproxy proxy proxy1.0 resolve socks4 socks4a socks5 socks5-hostname unix-socket "
)

// curlRefused are the options that we know and do not let through, and why.
var curlRefused = func() map[string]string {
	refused := make(map[string]string)
	for names, why := range map[string]string{
		"config":                           "it reads options that we do not see",
		"location-trusted":                 "it sends the token to other hosts",
		"request-target":                   "it takes the token to another server than the URL says",
		"verbose trace trace-ascii":        "it shows the token; -i and -D show the answer's header fields",
		"libcurl trace-config":             "it shows the token",
		"user oauth2-bearer aws-sigv4":     "it sets the Authorization field, which is tokenctl's",
		"netrc netrc-file netrc-optional":  "it sets the Authorization field, which is tokenctl's",
		"anyauth digest negotiate":         "it sets the Authorization field, which is tokenctl's",
		"ntlm ntlm-wb basic login-options": "it sets the Authorization field, which is tokenctl's",
		"help manual version":              "run curl itself for that",
	} {
		for name := range strings.FieldsSeq(names) {
			refused[name] = why
		}
	}
	return refused
}()

// has reports whether a name stands in a list of options.
func has(list, name string) bool {
	return strings.Contains(list, " "+name+" ") || strings.Contains(list, " "+name+"/")
}

func curlTakesValue(name string) bool { return has(curlValues, name) }

// curlOptions returns the long names of the options in one argument, which are
// several where letters stand together. Only the last may take a value, which
// is attached where it stands in the argument, too.
func curlOptions(arg string) (names []string, value string, attached bool, err error) {
	if long, ok := strings.CutPrefix(arg, "--"); ok {
		if has(curlFlags, long) || has(curlValues, long) {
			return []string{long}, "", false, nil
		}
		// What a flag switches on, no- switches off again.
		if on := strings.TrimPrefix(long, "no-"); on != long && has(curlFlags, on) && on != "next" {
			return []string{long}, "", false, nil
		}
		if on := "no-" + long; has(curlFlags, on) {
			return []string{long}, "", false, nil
		}
		return nil, "", false, fmt.Errorf("%s is no option of curl's that tokenctl knows; write options in full, and values as the next argument", curlShown(arg))
	}
	for i := 1; i < len(arg); i++ {
		name := curlLetter(arg[i])
		if name == "" {
			break
		}
		names = append(names, name)
		if curlTakesValue(name) {
			return names, arg[i+1:], i+1 < len(arg), nil
		}
		if i+1 == len(arg) {
			return names, "", false, nil
		}
	}
	return nil, "", false, fmt.Errorf("%s is no option of curl's that tokenctl knows", curlShown(arg))
}

// curlLetter is the long name of a letter's option; empty: there is none.
func curlLetter(letter byte) string {
	for word := range strings.FieldsSeq(curlFlags + curlValues) {
		if name, l, ok := strings.Cut(word, "/"); ok && l == string(letter) {
			return name
		}
	}
	return ""
}
