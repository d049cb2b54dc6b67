package broker

import "time"

// A moment is a point in time that is still known after a restart. Within one
// boot of the machine, setting the clock does not move it.
type moment struct {
	Wall   time.Time     `json:"wall"`
	BootID string        `json:"boot_id,omitempty"`
	Boot   time.Duration `json:"boot,omitempty"` // by the clock that counts suspend
}

func (b *Broker) moment() moment {
	return moment{time.Now().UTC(), b.BootID, b.Now()}
}

// since is how long ago m was; by a clock that was set back meanwhile, 0.
func (b *Broker) since(m moment) time.Duration {
	if m.BootID != "" && m.BootID == b.BootID {
		return b.Now() - m.Boot
	}
	return max(0, time.Since(m.Wall))
}
