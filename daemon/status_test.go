package daemon

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"tokend/broker"
	tokendv1 "tokend/proto/tokend/v1"
)

func near(at *timestamppb.Timestamp, in time.Duration) bool {
	left := time.Until(at.AsTime())
	return left <= in && left > in-time.Minute
}

func TestStandings(t *testing.T) {
	resp := &tokendv1.GetStatusResponse{}
	addStandings(resp, []broker.Standing{
		{Profile: "a", Token: &broker.Token{Remaining: time.Hour}, Renews: 50 * time.Minute},
		{Profile: "b", Err: broker.ErrUntrusted},
		{Profile: "c", Token: &broker.Token{Remaining: time.Hour}},
		{Profile: "d", Token: &broker.Token{Remaining: time.Hour}, Err: errors.New("disk full"), Retry: 5 * time.Minute},
	})
	var order []string
	for _, s := range resp.GetProfileStatuses() {
		order = append(order, s.GetProfile())
	}
	if got := strings.Join(order, " "); got != "b d a c" || resp.GetProfileStatusesOmitted() != 0 {
		t.Fatalf("%s, and %d", got, resp.GetProfileStatusesOmitted())
	}
	b, d, a, c := resp.ProfileStatuses[0], resp.ProfileStatuses[1], resp.ProfileStatuses[2], resp.ProfileStatuses[3]
	if b.GetReason() != tokendv1.Reason_REASON_UNTRUSTED || b.GetMessage() != broker.ErrUntrusted.Error() || b.ExpiresAt != nil || b.RenewsAt != nil || b.NextTry != nil {
		t.Errorf("%v", b)
	}
	if d.GetReason() != tokendv1.Reason_REASON_STORE_UNAVAILABLE || d.GetMessage() != "disk full" || !near(d.GetExpiresAt(), time.Hour) || d.RenewsAt != nil || !near(d.GetNextTry(), 5*time.Minute) {
		t.Errorf("%v", d)
	}
	if a.GetReason() != 0 || a.GetMessage() != "" || !near(a.GetExpiresAt(), time.Hour) || !near(a.GetRenewsAt(), 50*time.Minute) || a.NextTry != nil {
		t.Errorf("%v", a)
	}
	if !near(c.GetExpiresAt(), time.Hour) || c.RenewsAt != nil {
		t.Errorf("%v", c)
	}
}

// However many there are, status answers, and says how many more.
func TestStandingsAreBounded(t *testing.T) {
	var standings []broker.Standing
	for i := range 1000 {
		standings = append(standings, broker.Standing{Profile: fmt.Sprintf("fine/%d", i), Token: &broker.Token{Remaining: time.Hour}})
	}
	for i := range 10 {
		standings = append(standings, broker.Standing{Profile: fmt.Sprintf("bad/%d", i), Err: errors.New(strings.Repeat("x", 5000))})
	}
	for _, other := range []int{0, 50 << 10, 60 << 10} {
		resp := &tokendv1.GetStatusResponse{Problem: strings.Repeat("x", other)}
		addStandings(resp, standings)
		n := len(resp.GetProfileStatuses())
		if n+int(resp.GetProfileStatusesOmitted()) != len(standings) {
			t.Errorf("%d, and %d more", n, resp.GetProfileStatusesOmitted())
		}
		size := proto.Size(resp) - other
		if size > standingBytes+100 || other+size > maxMessage || other < 60<<10 && size < min(standingBytes, pageBytes-other)-3<<10 {
			t.Errorf("beside %d bytes there are %d of %d profiles", other, size, n)
		}
		for i, s := range resp.GetProfileStatuses() {
			if bad := strings.HasPrefix(s.GetProfile(), "bad/"); bad != (i < 10) {
				t.Fatalf("%d is %s", i, s.GetProfile())
			}
		}
	}
}
