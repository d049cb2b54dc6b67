package main

import (
	"slices"
	"strings"

	"tokend/client/api"
	"tokend/internal/envfile"
)

// refusedNames are the variables that change how programs load or how a shell
// behaves, and why a profile sets them only where --allow names them. A * stands
// for anything, also for nothing.
//
// It has no variables of proxies: they are commonly kept beside credentials,
// and whoever answers there still has to show the server's certificate.
var refusedNames = []struct{ names, reason string }{
	{"LD_* DYLD_* _RLD* LIBPATH SHLIB_PATH GCONV_PATH GETCONF_DIR GLIBC_TUNABLES LOCPATH NLSPATH MALLOC_* Malloc*",
		"changes what is loaded into every program"},
	{"HOSTALIASES LOCALDOMAIN RES_OPTIONS RESOLV_HOST_CONF", "changes how names of hosts are looked up"},
	{"PATH path fish_user_paths EXEC_PATH", "says where programs are found"},
	{"GIO_* GTK_* GST_* QT_* QML* VK_* LIBGL_* MESA_* VDPAU_DRIVER_PATH LIBVA_DRIVERS_PATH SASL_PATH SASL_CONF_PATH PKCS11_MODULE* P11_KIT_* KRB5_* GSS_* LADSPA_PATH ELECTRON_*",
		"changes what libraries load"},
	{"AWS_CONFIG_FILE AWS_SHARED_CREDENTIALS_FILE KUBECONFIG DOCKER_CONFIG DOCKER_HOST DOCKER_CONTEXT GNUPGHOME WGETRC PSQLRC NETRC ANSIBLE_* TF_CLI_* PIP_*INDEX_URL PIP_CONFIG_FILE PIP_FIND_LINKS PIP_TRUSTED_HOST UV_INDEX UV_INDEX_URL UV_DEFAULT_INDEX UV_EXTRA_INDEX_URL UV_PYTHON* UV_CONFIG_FILE UV_FIND_LINKS " +
		"RIPGREP_CONFIG_PATH HELM_PLUGINS PACKER_* VAGRANT_* COMPOSE_FILE TEXMF* MYSQL_HOME " +
		"VIMINIT GVIMINIT EXINIT VIM VIMRUNTIME MYVIMRC EMACSLOADPATH EMACSDATA EMACSPATH AWKPATH AWKLIBPATH SCREENRC TMUX_*",
		"names a configuration that can run programs"},
	{"HOME XDG_* CURL_HOME SHELL PWD OLDPWD TERM TERMINFO* TERMCAP INPUTRC DBUS_* SSH_AUTH_SOCK",
		"says what programs take for the user's own"},
	{"BASH* ENV IFS SHELLOPTS CDPATH cdpath EXECIGNORE FIGNORE fignore GLOBIGNORE GLOBSORT POSIXLY_CORRECT POSIX_PEDANTIC FUNCNEST TMOUT " +
		"TIMEFORMAT TIMEFMT IGNOREEOF auto_resume PS0 PS1 PS2 PS3 PS4 PROMPT PROMPT2 PROMPT3 PROMPT4 PROMPT_COMMAND PROMPT_DIRTRIM PROMPT_EOL_MARK prompt " +
		"RPROMPT RPROMPT2 RPS1 RPS2 SPROMPT psvar PSVAR HISTFILE* HISTSIZE HISTCMD HISTCONTROL HISTIGNORE HISTTIMEFORMAT HISTCHARS histchars SAVEHIST " +
		"MAIL MAILCHECK MAILPATH mailpath COMP_WORD* COMP_CWORD COMP_LINE COMP_POINT COMP_KEY COMP_TYPE COMPREPLY NULLCMD READNULLCMD STTY POSTEDIT KEYTIMEOUT " +
		"ZDOTDIR ZSH_* ZLE_* ZLS_* FPATH fpath MODULE_PATH module_path MANPATH manpath WATCH WATCHFMT watch fish_* __fish_* FISH_*",
		"changes how a shell behaves"},
	{"_ UID EUID GID EGID PPID RANDOM SRANDOM SECONDS EPOCHSECONDS EPOCHREALTIME epochtime LINENO LINES COLUMNS OPTIND OPTERR OPTARG SHLVL DIRSTACK* GROUPS FUNCNAME PIPESTATUS",
		"is a shell's own"},
	{"PYTHON* PERL* RUBY* GEM_* BUNDLE_* NODE_OPTIONS NODE_PATH NODE_EXTRA_CA_CERTS NODE_TLS_* NODE_REPL_* NODE_V8_COVERAGE NPM_CONFIG_* npm_config_* JAVA_TOOL_OPTIONS _JAVA_OPTIONS JDK_JAVA_OPTIONS CLASSPATH " +
		"PHPRC PHP_INI_SCAN_DIR LUA_PATH* LUA_CPATH* LUA_INIT* TCLLIBPATH R_PROFILE* R_ENVIRON* R_LIBS* JULIA_* GUILE_* ERL_* " +
		"DOTNET_STARTUP_HOOKS DOTNET_ADDITIONAL_DEPS DOTNET_SHARED_STORE DOTNET_ROOT* CORECLR_* COR_PROFILER* COR_ENABLE_PROFILING COMPlus_* GODEBUG GOTRACEBACK GOFLAGS GOENV GOROOT GOPATH GOTOOLCHAIN GOPROXY GOAUTH " +
		"RUSTC* RUSTFLAGS RUSTDOC* CARGO_HOME CARGO_BUILD_* CARGO_TARGET_* CARGO_NET_* CARGO_HTTP_* CARGO_ALIAS_* CGO_* CC CXX CPP LD AR AS CFLAGS CXXFLAGS LDFLAGS GCC_EXEC_PREFIX COMPILER_PATH LIBRARY_PATH CPATH C_INCLUDE_PATH CPLUS_INCLUDE_PATH " +
		"CONFIG_SHELL CONFIG_SITE CMAKE_* PKG_CONFIG* MAVEN_OPTS MAVEN_ARGS GRADLE_OPTS GRADLE_USER_HOME ANT_OPTS SBT_OPTS JAVA_OPTS JAVA_HOME MAKEFLAGS MAKEFILES GNUMAKEFLAGS",
		"changes what an interpreter or a compiler loads"},
	{"EDITOR VISUAL PAGER BROWSER *_EDITOR *_PAGER MANPAGER HGEDITOR FCEDIT *_ASKPASS LESS LESSOPEN LESSCLOSE LESSEDIT LESSKEY* *_RSH SVN_SSH TAR_OPTIONS SSH_SK_* SSH_PKCS11_* RSYNC_CONNECT_PROG MANOPT MANROFFOPT FZF_DEFAULT_* ZIPOPT CLOUDSDK_PYTHON* GROFF_*",
		"names programs that others run"},
	{"GIT_SSH* GIT_PROXY_COMMAND GIT_EXTERNAL_DIFF GIT_EXEC_PATH GIT_CONFIG* GIT_TEMPLATE_DIR GIT_DIR GIT_WORK_TREE GIT_COMMON_DIR GIT_TRACE* GIT_SSL_* GIT_ALLOW_PROTOCOL",
		"changes what git runs or whom it trusts"},
	{"SSL_CERT_* *_CA_BUNDLE OPENSSL_CONF* OPENSSL_MODULES OPENSSL_ENGINES GNUTLS_* SSLKEYLOGFILE", "changes whom TLS trusts or who can read along"},
}

// ownNames are those that a single shell keeps for itself: what is written to
// them fails, or is something else.
var ownNames = map[string]string{
	"zsh": "USERNAME TTY TTYIDLE ARGC ERRNO BAUD KEYBOARD_HACK LISTMAX LOGCHECK REPORT* TRY_BLOCK_* ZSH_SUBSHELL CPUTYPE MACHTYPE OSTYPE VENDOR " +
		"argv status pipestatus signals options aliases commands functions parameters modules builtins widgets keymaps " +
		"dis_* galiases saliases reswords patchars nameddirs userdirs usergroups jobdirs jobstates jobtexts dirstack " +
		"funcfiletrace funcsourcetrace funcstack functrace functions_source termcap terminfo zle_* zsh_* errnos sysparams langinfo mail history historywords",
	"fish": "argv status* pipestatus history hostname version umask last_pid",
}

// whyRefused says why a variable is not set; empty: it may be. shell is the one
// that is to set it, or empty.
func whyRefused(name, shell string) string {
	for _, row := range refusedNames {
		if matches(row.names, name) {
			return row.reason
		}
	}
	if matches(ownNames[shell], name) {
		return "is " + shell + "'s own"
	}
	return ""
}

func matches(names, name string) bool {
	for pattern := range strings.FieldsSeq(names) {
		before, after, any := strings.Cut(pattern, "*")
		if name == pattern || any && len(name) >= len(before)+len(after) && strings.HasPrefix(name, before) && strings.HasSuffix(name, after) {
			return true
		}
	}
	return false
}

// checkNames refuses the variables that a profile must not set, but for those
// in allow: all of them or none.
func checkNames(profile string, vars []envfile.Var, allow []string, shell string) error {
	var why, flags []string
	for _, v := range vars {
		if strings.HasPrefix(v.Name, "TOKEND_") {
			return &problem{Exit: exitConfig, Profile: profile, Variable: v.Name, Message: v.Name + " is a setting of this machine, and no profile's", Fix: "run: tokenctl edit " + profile}
		}
		if reason := whyRefused(v.Name, shell); reason != "" && !slices.Contains(allow, v.Name) {
			why = append(why, v.Name+" "+reason)
			flags = append(flags, "--allow "+v.Name)
		}
	}
	if why == nil {
		return nil
	}
	return &problem{
		Reason: reasonName(api.ReasonDenied), Exit: exitDenied, Profile: profile, Variable: strings.Fields(why[0])[0],
		Message: "nothing was set: " + strings.Join(why, "; "), Fix: "if that is meant, add " + strings.Join(flags, " "),
	}
}
