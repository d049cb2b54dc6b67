import * as vscode from "vscode";

import { profileText } from "./statusbar.ts";
import { TokenWatcher } from "./tokens.ts";

export function activate(context: vscode.ExtensionContext): void {
  const profiles = vscode.workspace.getConfiguration("netapi").get<string[]>("profiles", []);
  const watcher = new TokenWatcher(profiles, { protoDir: context.asAbsolutePath("proto") });
  const item = vscode.window.createStatusBarItem();
  context.subscriptions.push(watcher, item);
  watcher.on("state", async (profile, state) => {
    item.text = profileText(profile, state);
    item.show();
    const { message, command } = state.problem ?? {};
    if (command && (await vscode.window.showWarningMessage(`${profile}: ${message}`, command))) {
      const terminal = vscode.window.createTerminal();
      terminal.show();
      terminal.sendText(command, false); // the user reads it and presses Enter
    }
  });
}
