package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// report is everything that a run has found out.
type report struct {
	Machine string  `json:"machine"`
	Goals   []goal  `json:"goals"`
	Tables  []table `json:"tables"`
}

// goal is a figure that somebody promised, and what it is on this machine.
type goal struct {
	Figure   string  `json:"figure"`
	Measured float64 `json:"measured,omitempty"`
	Unit     string  `json:"unit,omitempty"` // empty: a ratio
	// Bound is "<=" or ">=".
	Bound   string  `json:"bound"`
	AtLeast float64 `json:"at_least"`
	Aim     float64 `json:"aim"`
	// Absolute is what the ratio is of.
	Absolute string `json:"absolute,omitempty"`
	// Missing is why there is nothing measured.
	Missing string `json:"not_measured,omitempty"`
}

func (g goal) ok() bool {
	if g.Bound == "<=" {
		return g.Measured <= g.AtLeast
	}
	return g.Measured >= g.AtLeast
}

// table has the absolute figures. A figure of 0 is one that makes no sense in
// its row.
type table struct {
	Title   string   `json:"title"`
	Columns []string `json:"columns"` // those of the figures, with their unit
	Rows    []row    `json:"rows"`
}

type row struct {
	Name    string    `json:"name"`
	Figures []float64 `json:"figures"`
}

func (r *report) printJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(r)
}

func (r *report) print(w io.Writer) error {
	fmt.Fprintf(w, "%s\n\n", r.Machine)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "figure\tmeasured\tat least\taim\t\tabsolute")
	for _, g := range r.Goals {
		measured, verdict := number(g.Measured)+unit(g.Unit), "short"
		switch {
		case g.Missing != "":
			measured, verdict = "not measured", g.Missing
		case g.ok():
			verdict = "ok"
		}
		sign := map[string]string{"<=": "≤ ", ">=": "≥ "}[g.Bound]
		fmt.Fprintf(t, "%s\t%s\t%s%s%s\t%s\t%s\t%s\n", g.Figure, measured, sign, number(g.AtLeast), unit(g.Unit), number(g.Aim), verdict, g.Absolute)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, table := range r.Tables {
		fmt.Fprintf(w, "\n%s\n", table.Title)
		fmt.Fprint(t, "\t")
		for _, c := range table.Columns {
			fmt.Fprintf(t, "%s\t", c)
		}
		fmt.Fprintln(t)
		for _, row := range table.Rows {
			fmt.Fprintf(t, "%s\t", row.Name)
			for _, f := range row.Figures {
				fmt.Fprintf(t, "%s\t", number(f))
			}
			fmt.Fprintln(t)
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	return nil
}

func unit(u string) string {
	if u == "" {
		return ""
	}
	return " " + u
}

// number shows three digits, or all before the point.
func number(f float64) string {
	switch {
	case f == 0:
		return "-"
	case f == float64(int64(f)) && f < 1e6 || f >= 100:
		return fmt.Sprintf("%.0f", f)
	case f >= 10:
		return fmt.Sprintf("%.1f", f)
	case f >= 1:
		return fmt.Sprintf("%.2f", f)
	}
	return fmt.Sprintf("%.3f", f)
}

// median sorts v, which must not be empty.
func median(v []float64) float64 {
	slices.Sort(v)
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}
