package daemon_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"tokend/internal/settings"
	tokendv1 "tokend/proto/tokend/v1"
	"tokend/proto/tokend/v1/tokendv1grpc"
)

// callOnce is what another process does: one call on the socket that the variable
// DAEMON_TEST_CALL names.
func callOnce(socket string) error {
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err = tokendv1grpc.NewDaemonServiceClient(conn).GetStatus(ctx, &tokendv1.GetStatusRequest{})
	return err
}

// wantOthersServed has another process make a call.
func (w *world) wantOthersServed(t *testing.T) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "DAEMON_TEST_CALL="+w.settings.Get(settings.Socket))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("another process is not served: %v: %s", err, out)
	}
}

// another is one more connection of this process. Once it is deaf, nothing more is
// read from it.
func (w *world) another(t *testing.T) (conn *grpc.ClientConn, deaf *atomic.Bool) {
	t.Helper()
	deaf = new(atomic.Bool)
	conn, err := grpc.NewClient("unix:"+w.settings.Get(settings.Socket), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			c, err := net.Dial("unix", w.settings.Get(settings.Socket))
			return &ear{Conn: c, deaf: deaf, closed: make(chan struct{})}, err
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn, deaf
}

type ear struct {
	net.Conn
	deaf   *atomic.Bool
	once   sync.Once
	closed chan struct{}
}

func (e *ear) Read(b []byte) (int, error) {
	if e.deaf.Load() {
		<-e.closed
	}
	return e.Conn.Read(b)
}

func (e *ear) Close() error {
	e.once.Do(func() { close(e.closed) })
	return e.Conn.Close()
}

// until makes a call again and again, until it ends as it is to.
func until(t *testing.T, code codes.Code, call func() error) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := call()
		if status.Code(err) == code {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the last call: %v, want %v", err, code)
		}
		<-tick.C
	}
}

func (w *world) status(t *testing.T) func() error {
	return func() error {
		_, err := w.daemon.GetStatus(t.Context(), &tokendv1.GetStatusRequest{})
		return err
	}
}

// Who does not read what it is answered gets no more of it, and nobody else is
// concerned. Once its connection is gone it is as any other.
func TestWhoDoesNotRead(t *testing.T) {
	w := newInitialized(t)
	w.put(t, "large", w.text(strings.Repeat("#", 47<<10)))
	for range 2 {
		conn, deaf := w.another(t)
		if _, err := tokendv1grpc.NewDaemonServiceClient(conn).GetStatus(t.Context(), &tokendv1.GetStatusRequest{}); err != nil {
			t.Fatal(err)
		}
		deaf.Store(true)
		for range 30 { // 1.4 MiB, of which 64 KiB fit through the window
			s, err := conn.NewStream(t.Context(), &grpc.StreamDesc{}, tokendv1grpc.ProfileService_RevealProfile_FullMethodName)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.SendMsg(&tokendv1.RevealProfileRequest{Name: "large"}); err != nil {
				t.Fatal(err)
			}
			if err := s.CloseSend(); err != nil {
				t.Fatal(err)
			}
		}
		until(t, codes.Unavailable, w.status(t))
		w.wantOthersServed(t)
		conn.Close()
		until(t, codes.OK, w.status(t))
	}
}

// Calls that are served are no debt, also where each comes on a connection of its own:
// a process that owes too much would find one closed.
func TestManyConnectionsThatAreOfUse(t *testing.T) {
	w := newWorld(t)
	for i := range 500 {
		if err := callOnce(w.settings.Get(settings.Socket)); err != nil {
			t.Fatalf("call %d: %v", i, err)
		}
	}
}

// A process has so many calls under way, and no more, on whatever connections; when
// these end in the middle of their calls, all of them are free again.
func TestCallsOfAProcess(t *testing.T) {
	w := newWorld(t)
	const most = 512
	for range 2 {
		var end func()
		until(t, codes.OK, func() (err error) { // those of the first round may not have ended yet
			end, err = w.beginCalls(t, most)
			return err
		})
		if err := w.status(t)(); status.Code(err) != codes.Unavailable || status.Convert(err).Message() != "this process makes too many calls at a time" {
			t.Errorf("call %d: %v", most+1, err)
		}
		w.wantOthersServed(t)
		end()
	}
}

// beginCalls has n calls under way, until it is ended by closing their connections; or
// none, if one of them is refused.
func (w *world) beginCalls(t *testing.T, n int) (end func(), err error) {
	t.Helper()
	conns := make([]*grpc.ClientConn, 4)
	for i := range conns {
		conns[i], _ = w.another(t)
	}
	end = func() {
		for _, conn := range conns {
			conn.Close()
		}
	}
	for i := range n {
		watch, err := healthpb.NewHealthClient(conns[i%len(conns)]).Watch(t.Context(), &healthpb.HealthCheckRequest{})
		if err == nil {
			_, err = watch.Recv()
		}
		if err != nil {
			end()
			return nil, err
		}
	}
	return end, nil
}
